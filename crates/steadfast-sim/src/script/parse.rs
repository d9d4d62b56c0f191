//! From TOML to a [`Script`].

use serde_json::json;
use toml::de::DeTable;

use super::read::{self, Section};
use super::{Content, Effect, Fault, Generator, Key, Match, Rule, Script, ScriptError, ScriptedFile, Then, Window};

const SCRIPT: [&str; 11] =
    ["seed", "latency", "jitter", "chunk", "interval", "models", "api_key", "keep_prompts", "plan", "file", "rule"];
const PLAN: [&str; 3] = ["milestones", "risks", "confidence"];
const MILESTONE: [&str; 5] = ["name", "description", "create", "modify", "delete"];
const FILE: [&str; 3] = ["path", "milestone", "text"];
const RULE: [&str; 9] = ["name", "match", "per", "first", "nth", "after", "every", "probability", "then"];
const MATCH: [&str; 9] = ["model", "role", "file", "idea", "session", "milestone", "attempt", "prompt", "stream"];
const THEN: [&str; 13] = [
    "content", "file", "files", "generate", "review", "fault", "status", "body", "headers", "size", "delay", "chunk",
    "interval",
];
const REVIEW: [&str; 4] = ["approved", "code_quality", "issues", "next_steps"];
const ISSUE: [&str; 4] = ["severity", "issue", "suggestion", "file"];
const KEYS: [(&str, Key); 6] = [
    ("model", Key::Model),
    ("role", Key::Role),
    ("file", Key::File),
    ("idea", Key::Idea),
    ("session", Key::Session),
    ("milestone", Key::Milestone),
];

/// See [`Script::parse`].
pub(super) fn script(text: &str) -> Result<Script, ScriptError> {
    let table = DeTable::parse(text).map_err(|error| {
        // The parser's message may go over several lines; its first says what is wrong.
        let message = error.message().lines().next().unwrap_or("this is no TOML").to_owned();
        read::fault(text, &error.span().unwrap_or(0..0), message)
    })?;
    let root = Section::root(text, &table);
    root.only(&SCRIPT)?;
    let plain = Script::default();
    Ok(Script {
        seed: root.whole("seed", 0)?.unwrap_or(plain.seed),
        latency: root.span("latency")?.unwrap_or(plain.latency),
        jitter: root.span("jitter")?.unwrap_or(plain.jitter),
        chunk: chunk(&root)?.unwrap_or(plain.chunk),
        interval: root.span("interval")?.unwrap_or(plain.interval),
        models: root.texts("models")?,
        api_key: root.text("api_key")?,
        keep_prompts: root.flag("keep_prompts")?.unwrap_or(false),
        plan: root.section("plan")?.map(|section| plan(&section)).transpose()?,
        files: root.sections("file", "[[file]]")?.iter().map(file).collect::<Result<_, _>>()?,
        rules: root.sections("rule", "[[rule]]")?.iter().enumerate().map(rule).collect::<Result<_, _>>()?,
    })
}

fn chunk(section: &Section<'_, '_>) -> Result<Option<usize>, ScriptError> {
    Ok(section.whole("chunk", 1)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}

fn required(section: &Section<'_, '_>, key: &str, what: &str) -> Result<String, ScriptError> {
    section
        .text(key)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| section.fault(key, format!("{what} needs a `{key}`")))
}

fn plan(section: &Section<'_, '_>) -> Result<String, ScriptError> {
    section.only(&PLAN)?;
    let mut milestones = Vec::new();
    for milestone in section.sections("milestones", "[[plan.milestones]]")? {
        milestone.only(&MILESTONE)?;
        milestones.push(json!({
            "name": required(&milestone, "name", "a milestone")?,
            "description": milestone.text("description")?.unwrap_or_default(),
            "files": {
                "create": milestone.texts("create")?,
                "modify": milestone.texts("modify")?,
                "delete": milestone.texts("delete")?,
            },
        }));
    }
    let plan = json!({
        "milestones": milestones,
        "risks": section.texts("risks")?,
        "confidence": section.share("confidence")?.unwrap_or(0.9),
    });
    Ok(format!("{plan:#}"))
}

fn file(section: &Section<'_, '_>) -> Result<ScriptedFile, ScriptError> {
    section.only(&FILE)?;
    let milestone = section.whole("milestone", 1)?;
    let text = section.text("text")?.ok_or_else(|| section.fault("text", "a [[file]] needs a `text`"))?;
    Ok(ScriptedFile {
        path: required(section, "path", "a [[file]]")?,
        milestone: milestone.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        text,
    })
}

fn rule((at, section): (usize, &Section<'_, '_>)) -> Result<Rule, ScriptError> {
    section.only(&RULE)?;
    let matcher = section.section("match")?.map(|section| matcher(&section)).transpose()?;
    let per = section.texts("per")?;
    let per = per.iter().map(|word| {
        let known = KEYS.iter().find(|(name, _)| name == word).map(|(_, key)| *key);
        known.ok_or_else(|| {
            section.fault(
                "per",
                format!(
                    "`{word}` is nothing to count by; known are `model`, `role`, `file`, `idea`, `session`, `milestone`"
                ),
            )
        })
    });
    let per = per.collect::<Result<Vec<_>, _>>()?;
    let window = Window {
        after: section.whole("after", 0)?.unwrap_or(0),
        first: section.whole("first", 1)?,
        nth: section.wholes("nth")?,
        every: section.whole("every", 1)?,
    };
    let then = section.section("then")?.ok_or_else(|| section.fault("then", "a [[rule]] needs a `then`"))?;
    let then = then_part(&then)?;
    if matches!(then.effect, Effect::Answer { fault: Some(Fault::Refuse), .. })
        && (matcher.is_some() || !per.is_empty())
    {
        let key = if matcher.is_some() { "match" } else { "per" };
        return Err(section.fault(
            key,
            format!("a rule with the fault `refuse` can have no `{key}`: the connection ends before a request is read"),
        ));
    }
    Ok(Rule {
        name: section.text("name")?.unwrap_or_else(|| format!("rule {}", at + 1)),
        matcher: matcher.unwrap_or_default(),
        per,
        window,
        probability: section.share("probability")?,
        then,
    })
}

fn matcher(section: &Section<'_, '_>) -> Result<Match, ScriptError> {
    section.only(&MATCH)?;
    let role = section.texts("role")?;
    if let Some(word) = role.iter().find(|role| !matches!(role.as_str(), "planner" | "coder" | "reviewer" | "none")) {
        return Err(section.fault(
            "role",
            format!(
                "`{word}` is no role; known are `planner`, `coder`, `reviewer`, and `none` for a request without one"
            ),
        ));
    }
    Ok(Match {
        model: section.texts("model")?,
        role,
        file: section.texts("file")?,
        idea: section.texts("idea")?,
        session: section.texts("session")?,
        milestone: section.wholes("milestone")?,
        attempt: section.wholes("attempt")?,
        prompt: section.texts("prompt")?,
        stream: section.flag("stream")?,
    })
}

fn then_part(section: &Section<'_, '_>) -> Result<Then, ScriptError> {
    section.only(&THEN)?;
    let contents = ["content", "file", "files", "generate", "review"]
        .into_iter()
        .filter(|key| section.has(key))
        .collect::<Vec<_>>();
    if let [one, other, ..] = contents[..] {
        return Err(
            section.fault(other, format!("`{one}` and `{other}` exclude each other: an answer has one content"))
        );
    }
    let status = section.whole("status", 200)?;
    if let (Some(_), Some(key)) = (status, contents.first().copied().or(section.has("fault").then_some("fault"))) {
        return Err(
            section.fault(key, format!("`status` and `{key}` exclude each other; the body of a status is its `body`"))
        );
    }
    if section.has("body") && status.is_none() {
        return Err(section.fault("body", "`body` goes with a `status`; the text of an answer is its `content`"));
    }
    let effect = match status {
        None => Effect::Answer { content: content(section)?, fault: fault(section)? },
        Some(code) if code <= 599 => Effect::Status { code: code as u16, body: section.text("body")? },
        Some(_) => {
            return Err(section.fault("status", "`status` in `then` must be a whole number from 200 to 599"));
        }
    };
    let headers = section.pairs("headers")?;
    for (name, value) in &headers {
        let sound =
            name.parse::<hyper::header::HeaderName>().is_ok() && value.parse::<hyper::header::HeaderValue>().is_ok();
        if !sound {
            return Err(section.fault("headers", format!("`{name}: {value}` is no header")));
        }
    }
    Ok(Then {
        effect,
        headers,
        delay: section.span("delay")?,
        chunk: chunk(section)?,
        interval: section.span("interval")?,
    })
}

fn content(section: &Section<'_, '_>) -> Result<Content, ScriptError> {
    if let Some(text) = section.text("content")? {
        return Ok(Content::Text(text));
    }
    if let Some(text) = section.text("file")? {
        return Ok(Content::File(text));
    }
    if section.has("files") {
        return Ok(Content::Files(section.pairs("files")?));
    }
    if let Some(review) = section.section("review")? {
        return Ok(Content::Text(review_json(&review)?));
    }
    let words = Generator::WORDS.map(|(word, _)| word);
    let generator = section.word("generate", &words)?.and_then(|at| Generator::WORDS.get(at));
    Ok(generator.map_or(Content::Auto, |(_, generator)| Content::Generated(*generator)))
}

fn fault(section: &Section<'_, '_>) -> Result<Option<Fault>, ScriptError> {
    let words = Fault::WORDS.map(|(word, _)| word);
    let fault = section.word("fault", &words)?.and_then(|at| Fault::WORDS.get(at)).map(|(_, fault)| *fault);
    match (fault, section.whole("size", 1)?) {
        (Some(Fault::Huge(_)), Some(size)) => Ok(Some(Fault::Huge(size))),
        (_, Some(_)) => Err(section.fault("size", "`size` goes with the fault `huge` only")),
        (fault, None) => Ok(fault),
    }
}

fn review_json(section: &Section<'_, '_>) -> Result<String, ScriptError> {
    section.only(&REVIEW)?;
    let approved = section.flag("approved")?.ok_or_else(|| section.fault("approved", "a `review` needs `approved`"))?;
    let quality = section.whole("code_quality", 0)?.unwrap_or(if approved { 88 } else { 50 });
    let mut issues = Vec::new();
    for issue in section.sections("issues", "`issues`")? {
        issue.only(&ISSUE)?;
        let mut found = json!({
            "severity": issue.text("severity")?.unwrap_or_else(|| "medium".to_owned()),
            "issue": required(&issue, "issue", "an entry of `issues`")?,
            "suggestion": issue.text("suggestion")?.unwrap_or_default(),
        });
        if let Some(file) = issue.text("file")? {
            found["file"] = file.into();
        }
        issues.push(found);
    }
    let review = json!({
        "approved": approved, "code_quality": quality, "issues": issues, "next_steps": section.texts("next_steps")?,
    });
    Ok(format!("{review:#}"))
}
