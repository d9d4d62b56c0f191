//! Texts with places for values, as the files in `prompts/` have them.
//!
//! `{{name}}` is replaced by a value, once: what looks like a place inside of a value is text. A part between the lines
//! `{{#name}}` and `{{/name}}` is kept when the value is there, one between `{{^name}}` and `{{/name}}` when it is not;
//! such parts do not nest. What stands above the first mark (`<!-- system -->`, `<!-- user -->`) is for people.

/// Why a text cannot be used for a prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is no prompt file of that name.
    #[error("there is no prompt file {name:?}; did you mean {nearest:?}?")]
    UnknownFile {
        /// As given.
        name: String,
        /// The closest name that exists.
        nearest: &'static str,
    },
    /// A place for a value that does not exist.
    #[error("{file}, line {line}: there is no value {name:?} here; did you mean {nearest:?}?")]
    UnknownValue {
        /// The prompt file.
        file: &'static str,
        /// From 1.
        line: usize,
        /// As written.
        name: String,
        /// The closest value that exists.
        nearest: &'static str,
    },
    /// A value without which the prompt makes no sense is not used.
    #[error("{file}: the value {{{{{name}}}}} must be used in it")]
    MissingValue {
        /// The prompt file.
        file: &'static str,
        /// Which.
        name: &'static str,
    },
    /// A mark is missing.
    #[error("{file}: there is no line '<!-- {part} -->' that starts this part")]
    MissingPart {
        /// The prompt file.
        file: &'static str,
        /// `system` or `user`.
        part: &'static str,
    },
    /// A mark stands twice or where it does not belong.
    #[error("{file}, line {line}: the mark {mark:?} does not belong here")]
    Misplaced {
        /// The prompt file.
        file: &'static str,
        /// From 1.
        line: usize,
        /// The line, trimmed.
        mark: String,
    },
    /// A part is opened and never closed.
    #[error("{file}, line {line}: the part {name:?} that opens here is never closed with {{{{/{name}}}}}")]
    Unclosed {
        /// The prompt file.
        file: &'static str,
        /// From 1.
        line: usize,
        /// Which.
        name: String,
    },
}

/// What may and what must stand in a prompt file.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) file: &'static str,
    /// Without it there is only a user part.
    pub(super) has_system: bool,
    pub(super) required: &'static [&'static str],
    pub(super) optional: &'static [&'static str],
}

impl Form {
    fn known(&self, name: &str) -> Option<&'static str> {
        self.required.iter().chain(self.optional).copied().find(|known| *known == name)
    }

    fn nearest(&self, name: &str) -> &'static str {
        nearest(name, self.required.iter().chain(self.optional).copied())
    }
}

pub(super) fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> &'static str {
    let name = name.to_lowercase();
    known.min_by_key(|known| strsim::osa_distance(&name, known)).unwrap_or("")
}

/// The values of one prompt. What is not there is empty.
#[derive(Debug, Default, Clone)]
pub(super) struct Values(Vec<(&'static str, String)>);

impl Values {
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        let value = value.into();
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, value));
    }

    fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    /// The value that decides, and whether it must be there (`true`) or not.
    when: Option<(&'static str, bool)>,
    pieces: Vec<Piece>,
}

/// A checked text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Template {
    system: Vec<Section>,
    user: Vec<Section>,
}

impl Template {
    pub(super) fn parse(form: &Form, text: &str) -> Result<Self, TemplateError> {
        Parser { form, parts: [None, None], at: None, open: None, used: Vec::new() }.parse(text)
    }

    /// System and user text.
    pub(super) fn render(&self, values: &Values) -> (String, String) {
        (render(&self.system, values), render(&self.user, values))
    }
}

fn render(sections: &[Section], values: &Values) -> String {
    let mut text = String::new();
    for section in sections {
        if section.when.is_some_and(|(name, there)| values.get(name).is_empty() == there) {
            continue;
        }
        for piece in &section.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                // The line of the template ends the value's last line.
                Piece::Value(name) => text.push_str(values.get(name).trim_end_matches('\n')),
            }
        }
    }
    let text = text.trim_matches('\n');
    if text.is_empty() { String::new() } else { format!("{text}\n") }
}

const SYSTEM: usize = 0;
const USER: usize = 1;

struct Parser<'a> {
    form: &'a Form,
    parts: [Option<Vec<Section>>; 2],
    /// The part that is being read.
    at: Option<usize>,
    /// The section that is open: its line and name.
    open: Option<(usize, &'static str)>,
    used: Vec<&'static str>,
}

impl Parser<'_> {
    fn parse(mut self, text: &str) -> Result<Template, TemplateError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            self.line(index + 1, line)?;
        }
        self.check_closed()?;
        let file = self.form.file;
        if let Some(name) = self.form.required.iter().find(|name| !self.used.contains(name)) {
            return Err(TemplateError::MissingValue { file, name });
        }
        let [system, user] = self.parts;
        let missing = |part| TemplateError::MissingPart { file, part };
        Ok(Template {
            system: match system {
                None if self.form.has_system => return Err(missing("system")),
                system => system.unwrap_or_default(),
            },
            user: user.ok_or_else(|| missing("user"))?,
        })
    }

    fn check_closed(&self) -> Result<(), TemplateError> {
        match self.open {
            Some((line, name)) => Err(TemplateError::Unclosed { file: self.form.file, line, name: name.to_owned() }),
            None => Ok(()),
        }
    }

    fn line(&mut self, number: usize, line: &str) -> Result<(), TemplateError> {
        let mark = line.trim();
        let part = match mark {
            "<!-- system -->" => Some(SYSTEM),
            "<!-- user -->" => Some(USER),
            _ => None,
        };
        if let Some(part) = part {
            self.check_closed()?;
            if self.parts[part].is_some() || (part == SYSTEM && !self.form.has_system) {
                return Err(self.misplaced(number, mark));
            }
            self.parts[part] = Some(vec![Section { when: None, pieces: Vec::new() }]);
            self.at = Some(part);
            return Ok(());
        }
        let Some(part) = self.at else { return Ok(()) };
        let inner = mark.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}")).map(str::trim);
        let command = inner.and_then(|inner| {
            let sign = inner.chars().next().filter(|sign| matches!(sign, '#' | '^' | '/'))?;
            Some((sign, inner[1..].trim()))
        });
        let sections = self.parts[part].get_or_insert_default();
        match command {
            Some((sign @ ('#' | '^'), name)) => {
                if self.open.is_some() {
                    return Err(self.misplaced(number, mark));
                }
                let name = self.known(number, name)?;
                self.open = Some((number, name));
                let section = Section { when: Some((name, sign == '#')), pieces: Vec::new() };
                self.parts[part].get_or_insert_default().push(section);
            }
            Some((_, name)) => {
                if self.open.is_none_or(|(_, open)| open != name) {
                    return Err(self.misplaced(number, mark));
                }
                self.open = None;
                sections.push(Section { when: None, pieces: Vec::new() });
            }
            None => {
                let pieces = self.pieces(number, line)?;
                if let Some(section) = self.parts[part].get_or_insert_default().last_mut() {
                    section.pieces.extend(pieces);
                }
            }
        }
        Ok(())
    }

    fn misplaced(&self, line: usize, mark: &str) -> TemplateError {
        TemplateError::Misplaced { file: self.form.file, line, mark: mark.chars().take(80).collect() }
    }

    fn known(&self, line: usize, name: &str) -> Result<&'static str, TemplateError> {
        self.form.known(name).ok_or_else(|| TemplateError::UnknownValue {
            file: self.form.file,
            line,
            name: name.chars().take(80).collect(),
            nearest: self.form.nearest(name),
        })
    }

    fn pieces(&mut self, number: usize, line: &str) -> Result<Vec<Piece>, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = line;
        let mut text = String::new();
        while let Some((before, after)) = rest.split_once("{{") {
            text.push_str(before);
            let place = after.split_once("}}").map(|(name, tail)| (name.trim(), tail)).filter(|(name, _)| {
                let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
                !name.is_empty() && name.chars().all(word)
            });
            if let Some((name, tail)) = place {
                let name = self.known(number, name)?;
                self.used.push(name);
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(Piece::Value(name));
                rest = tail;
            } else {
                // Two braces of an example, not a place.
                text.push_str("{{");
                rest = after;
            }
        }
        text.push_str(rest);
        text.push('\n');
        pieces.push(Piece::Text(text));
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORM: Form = Form { file: "x.md", has_system: true, required: &["idea"], optional: &["tree", "last_error"] };

    fn render(text: &str, values: &[(&'static str, &str)]) -> (String, String) {
        let mut all = Values::default();
        for (name, value) in values {
            all.set(name, *value);
        }
        Template::parse(&FORM, text).expect("valid").render(&all)
    }

    #[test]
    fn values_are_put_in_once_and_parts_depend_on_them() {
        let text = "for people {{what}}\n<!-- system -->\n\nS {\"a\": {{}}} {{ idea }}\n\n<!-- user -->\n{{idea}}!\n{{#tree}}\nT: {{tree}}\n{{/tree}}\n{{^tree}}\nno tree\n{{/tree}}\nend";
        assert_eq!(
            render(text, &[("idea", "{{tree}}\n"), ("tree", "t\n\n")]),
            ("S {\"a\": {{}}} {{tree}}\n".to_owned(), "{{tree}}!\nT: t\nend\n".to_owned())
        );
        assert_eq!(render(text, &[("idea", "i")]).1, "i!\nno tree\nend\n");
    }

    #[test]
    fn a_bad_text_says_what_and_where() {
        let cases = [
            ("<!-- user -->\n{{idea}}", "x.md: there is no line '<!-- system -->' that starts this part"),
            ("<!-- system -->\n{{idea}}", "x.md: there is no line '<!-- user -->' that starts this part"),
            ("{{idea}}", "x.md: the value {{idea}} must be used in it"),
            ("<!-- system -->\n<!-- user -->\n{{#idea}}\n{{/idea}}", "x.md: the value {{idea}} must be used in it"),
            (
                "<!-- system -->\n<!-- user -->\n{{idae}}",
                "x.md, line 3: there is no value \"idae\" here; did you mean \"idea\"?",
            ),
            (
                "<!-- system -->\n{{#Lasterror}}",
                "x.md, line 2: there is no value \"Lasterror\" here; did you mean \"last_error\"?",
            ),
            ("<!-- system -->\n<!-- system -->", "x.md, line 2: the mark \"<!-- system -->\" does not belong here"),
            ("<!-- system -->\n{{/idea}}", "x.md, line 2: the mark \"{{/idea}}\" does not belong here"),
            ("<!-- system -->\n{{#idea}}\n{{#tree}}", "x.md, line 3: the mark \"{{#tree}}\" does not belong here"),
            ("<!-- system -->\n{{#idea}}\n{{/tree}}", "x.md, line 3: the mark \"{{/tree}}\" does not belong here"),
            (
                "<!-- system -->\n{{#idea}}\n<!-- user -->",
                "x.md, line 2: the part \"idea\" that opens here is never closed with {{/idea}}",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Template::parse(&FORM, text).map_err(|e| e.to_string()), Err(expected.to_owned()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\PC|\n|\\{\\{|\\}\\}|idea|\n\\{\\{[#^/]idea\\}\\}\n|\n<!-- (system|user) -->\n)*") {
            if let Ok(template) = Template::parse(&FORM, &text) {
                let _ = template.render(&Values::default());
            }
        }
    }
}
