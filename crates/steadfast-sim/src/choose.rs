//! Which rule takes a request: matching, counting and chance. No clock, no IO.

use std::collections::HashMap;

use crate::ask::Ask;
use crate::script::{Effect, Fault, Key, Match, Rule, Script};

/// Keys of one rule that have a count of their own; further ones share one, so that a flood of names stays bounded.
const MAX_COUNTS: usize = 65_536;

/// The counts of a script's rules, all zero at first.
#[derive(Debug)]
pub(crate) struct Counts(Vec<HashMap<String, u64>>);

impl Counts {
    pub(crate) fn new(script: &Script) -> Self {
        Self(script.rules.iter().map(|_| HashMap::new()).collect())
    }

    /// The first rule that takes this request. A rule counts the requests that it matches and that no rule before it took.
    pub(crate) fn choose<'s>(&mut self, script: &'s Script, ask: &Ask) -> Option<&'s Rule> {
        self.first(script, |rule| (!refuses(rule) && matches(&rule.matcher, ask)).then(|| key(&rule.per, ask)))
    }

    /// The first rule that refuses this connection; such rules count connections.
    pub(crate) fn refuse<'s>(&mut self, script: &'s Script) -> Option<&'s Rule> {
        self.first(script, |rule| refuses(rule).then(String::new))
    }

    fn first<'s>(&mut self, script: &'s Script, key_of: impl Fn(&Rule) -> Option<String>) -> Option<&'s Rule> {
        for (at, (rule, counts)) in script.rules.iter().zip(&mut self.0).enumerate() {
            let Some(mut key) = key_of(rule) else {
                continue;
            };
            if counts.len() >= MAX_COUNTS && !counts.contains_key(&key) {
                key = "\u{0}others".to_owned();
            }
            let chance =
                |n| rule.probability.is_none_or(|share| roll(script.seed, &[at as u64, fold(&key), n]) < share);
            let n = counts.entry(key.clone()).and_modify(|n| *n += 1).or_insert(1);
            if rule.window.holds(*n) && chance(*n) {
                return Some(rule);
            }
        }
        None
    }
}

fn refuses(rule: &Rule) -> bool {
    matches!(rule.then.effect, Effect::Answer { fault: Some(Fault::Refuse), .. })
}

fn matches(rule: &Match, ask: &Ask) -> bool {
    let glob = |patterns: &[String], text: Option<&str>| {
        patterns.is_empty()
            || text.is_some_and(|text| patterns.iter().any(|pattern| fits(pattern.as_bytes(), text.as_bytes())))
    };
    let number =
        |wanted: &[u64], n: Option<u32>| wanted.is_empty() || n.is_some_and(|n| wanted.contains(&u64::from(n)));
    let role = ask.role.as_deref().unwrap_or("none");
    (rule.role.is_empty() || rule.role.iter().any(|wanted| wanted == role))
        && glob(&rule.model, Some(&ask.model))
        && glob(&rule.file, ask.file.as_deref())
        && glob(&rule.idea, ask.idea.as_deref())
        && glob(&rule.session, ask.session.as_deref())
        && number(&rule.milestone, ask.milestone)
        && number(&rule.attempt, ask.attempt)
        && rule.stream.is_none_or(|stream| stream == ask.stream)
        && (rule.prompt.is_empty()
            || ask.prompt.as_ref().is_some_and(|text| rule.prompt.iter().any(|part| text.contains(part.as_str()))))
}

/// `*` stands for any characters, `/` included; `?` for one byte.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    // Greedy with one point to go back to: linear in practice and never exponential, whatever the pattern.
    let (mut p, mut t, mut back) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match back {
                None => return false,
                Some((after, from)) => {
                    back = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

fn key(per: &[Key], ask: &Ask) -> String {
    let mut key = String::new();
    for part in per {
        let number = |n: Option<u32>| n.map(|n| n.to_string());
        let value = match part {
            Key::Model => Some(ask.model.clone()),
            Key::Role => ask.role.clone(),
            Key::File => ask.file.clone(),
            Key::Idea => ask.idea.clone(),
            Key::Session => ask.session.clone(),
            Key::Milestone => number(ask.milestone),
        };
        key.push_str(&value.unwrap_or_default());
        key.push('\u{1}');
    }
    key
}

/// FNV-1a.
pub(crate) fn fold(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number from 0 to below 1 that depends on nothing but `seed` and `parts` (splitmix64).
pub(crate) fn roll(seed: u64, parts: &[u64]) -> f64 {
    let mut state = seed;
    for part in parts {
        state = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    // The upper 53 bits are what a double holds.
    (state >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Endpoint;

    fn ask(model: &str, file: &str) -> Ask {
        Ask {
            endpoint: Endpoint::Chat,
            model: model.to_owned(),
            stream: true,
            include_usage: false,
            role: Some("coder".to_owned()),
            session: None,
            idea: None,
            milestone: Some(1),
            file: Some(file.to_owned()),
            attempt: Some(1),
            attempt_id: None,
            traceparent: None,
            prompt_bytes: 0,
            prompt: Some("write it".to_owned()),
        }
    }

    fn names(script: &str, asks: &[Ask]) -> Vec<String> {
        let script = Script::parse(script).unwrap();
        let mut counts = Counts::new(&script);
        asks.iter().map(|ask| counts.choose(&script, ask).map_or("-".to_owned(), |rule| rule.name.clone())).collect()
    }

    #[test]
    fn the_first_rule_that_fits_takes_the_request_and_later_rules_do_not_count_it() {
        let script = "[[rule]]\nname = \"a\"\nfirst = 2\nthen = {}\n[[rule]]\nname = \"b\"\nfirst = 1\nthen = {}";
        assert_eq!(names(script, &vec![ask("m", "f"); 4]), ["a", "a", "b", "-"]);
    }

    #[test]
    fn counts_are_per_rule_unless_a_key_is_named() {
        let asks = [ask("m", "a"), ask("m", "b"), ask("m", "a"), ask("n", "a")];
        assert_eq!(names("[[rule]]\nfirst = 1\nthen = {}", &asks), ["rule 1", "-", "-", "-"]);
        assert_eq!(names("[[rule]]\nfirst = 1\nper = \"file\"\nthen = {}", &asks), ["rule 1", "rule 1", "-", "-"]);
        assert_eq!(
            names("[[rule]]\nfirst = 1\nper = [\"file\", \"model\"]\nthen = {}", &asks),
            ["rule 1", "rule 1", "-", "rule 1"]
        );
    }

    #[test]
    fn every_part_of_a_match_must_fit() {
        let taken = |part: &str| {
            names(&format!("[[rule]]\nmatch = {{ {part} }}\nthen = {{}}"), &[ask("big-model", "src/a.c")])[0]
                == "rule 1"
        };
        for fitting in [
            "",
            "model = \"big-*\"",
            "model = [\"x\", \"*model\"]",
            "file = \"src/*.c\"",
            "file = \"*.?\"",
            "milestone = [1, 2]",
            "attempt = 1",
            "role = \"coder\"",
            "stream = true",
            "prompt = \"write\"",
        ] {
            assert!(taken(fitting), "{fitting}");
        }
        for other in [
            "model = \"big\"",
            "file = \"*.h\"",
            "milestone = 2",
            "role = \"none\"",
            "stream = false",
            "prompt = \"read\"",
            "idea = \"*\"",
            "model = \"big-*\", attempt = 2",
        ] {
            assert!(!taken(other), "{other}");
        }
    }

    #[test]
    fn chance_is_the_same_in_every_run_and_near_its_share() {
        let script = "seed = 7\n[[rule]]\nprobability = 0.3\nthen = {}";
        let asks = vec![ask("m", "f"); 1000];
        let hits = names(script, &asks);
        assert_eq!(hits, names(script, &asks));
        let share = hits.iter().filter(|name| *name != "-").count();
        assert!((250..350).contains(&share), "{share}");
        assert_ne!(hits, names(&script.replace('7', "8"), &asks));
    }

    #[test]
    fn counts_of_many_keys_are_bounded() {
        let script = Script::parse("[[rule]]\nper = \"file\"\nfirst = 1\nthen = {}").unwrap();
        let mut counts = Counts::new(&script);
        for n in 0..MAX_COUNTS + 10 {
            let _ = counts.choose(&script, &ask("m", &n.to_string()));
        }
        assert!(counts.0[0].len() <= MAX_COUNTS + 1);
    }
}
