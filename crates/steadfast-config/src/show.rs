//! The effective configuration as TOML, each value with its origin.

use crate::decode::quoted;
use crate::tree::{Node, Table, Value};

/// Everything in the order of the default file. Reads back to the same configuration, but for the webhook, which is hidden
/// in the tree already.
pub(crate) fn show(tree: &Table) -> String {
    let mut lines = vec!["# The configuration that holds. Behind each value: where it comes from.".to_owned()];
    for section in &tree.0 {
        let Some(table) = section.node.table() else {
            continue;
        };
        if crate::schema::NAMED.contains(&section.key.as_str()) {
            for entry in &table.0 {
                let keys = entry.node.table().map(|table| rows(table, "")).unwrap_or_default();
                block(&mut lines, &format!("{}.{}", section.key, quoted(&entry.key)), keys);
            }
        } else {
            block(&mut lines, &section.key, rows(table, ""));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

struct Row {
    text: String,
    origin: String,
}

fn block(lines: &mut Vec<String>, header: &str, rows: Vec<Row>) {
    lines.extend([String::new(), format!("[{header}]")]);
    // Aligned, but one long list does not push every comment to the right.
    let width = rows.iter().map(|row| row.text.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
    lines.extend(rows.into_iter().map(|row| format!("{:width$}  # {}", row.text, row.origin)));
}

fn rows(table: &Table, prefix: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in &table.0 {
        let key = format!("{prefix}{}", quoted(&entry.key));
        match &entry.node.value {
            // Dotted, because each part may have another origin.
            Value::Table(inner) => rows.extend(self::rows(inner, &format!("{key}."))),
            _ => {
                let value = text(&entry.node);
                rows.push(Row { text: format!("{key} = {value}"), origin: entry.node.at.to_string() });
            }
        }
    }
    rows
}

/// The value as TOML. A variable's text that reads as a number, but stands where a text belongs, is a text all the same;
/// here it is shown as it reads.
fn text(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => toml::Value::String(text.clone()).to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => toml::Value::Float(*number).to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Datetime => toml::Value::String(node.raw.clone().unwrap_or_default()).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let parts: Vec<String> =
                table.0.iter().map(|entry| format!("{} = {}", quoted(&entry.key), text(&entry.node))).collect();
            format!("{{ {} }}", parts.join(", "))
        }
    }
}
