//! The nearest valid name, for "did you mean".

/// The candidate most like `word`, when it is like enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| {
            let other = candidate.to_lowercase().replace('-', "_");
            (strsim::damerau_levenshtein(&folded, &other), candidate)
        })
        // A third of the letters may differ: "modles" still finds "models", and "foo" finds nothing.
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?`, or else the list of what there is.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, candidates.clone()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => {
            let all: Vec<String> = candidates.into_iter().map(|candidate| format!("{candidate:?}")).collect();
            if all.is_empty() { String::new() } else { format!("; valid are {}", all.join(", ")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word_and_another_word_finds_none() {
        assert_eq!(nearest("max_sesions", ["max_sessions", "max_restarts"]), Some("max_sessions"));
        assert_eq!(nearest("Max-Sessions", ["max_sessions"]), Some("max_sessions"));
        assert_eq!(nearest("foo", ["daemon", "log"]), None);
        assert_eq!(hint("foo", ["daemon", "issues"]), "; valid are \"daemon\", \"issues\"");
    }
}
