//! How much fits into a prompt, and how texts are cut.

/// The estimated number of tokens of a text: a quarter of its ASCII bytes, rounded up, plus one for every other character.
///
/// Common tokenizers take 3.5 to 4.5 bytes of English or code a token, and about one token for a character of most other
/// scripts. It is an estimate: leave room between a budget and a model's window.
pub fn tokens(text: &str) -> usize {
    if text.is_ascii() {
        return text.len().div_ceil(4);
    }
    let ascii = text.bytes().filter(u8::is_ascii).count();
    ascii.div_ceil(4) + text.chars().count() - ascii
}

/// The first lines of a text that fit, and how many these are. Empty when not even the first one fits.
pub(super) fn head(text: &str, room: usize) -> (&str, usize) {
    let (mut end, mut lines, mut used) = (0, 0, 0);
    for line in text.split_inclusive('\n') {
        used += tokens(line);
        if used > room {
            break;
        }
        end += line.len();
        lines += 1;
    }
    (&text[..end], lines)
}

/// The last lines of a text that fit, and how many these are.
fn tail(text: &str, room: usize) -> (&str, usize) {
    let (mut start, mut lines, mut used) = (text.len(), 0, 0);
    for line in text.split_inclusive('\n').rev() {
        used += tokens(line);
        if used > room {
            break;
        }
        start -= line.len();
        lines += 1;
    }
    (&text[start..], lines)
}

/// A text whose middle is left out when it does not fit: a third of the room for its start, the rest for its end, where
/// most tools say what failed. The cut is named in a line of its own. Very long lines are cut as well.
pub(super) fn without_middle(text: &str, room: usize) -> String {
    if tokens(text) <= room {
        return text.to_owned();
    }
    let text: String = text.split_inclusive('\n').map(short_line).collect();
    if tokens(&text) <= room {
        return text;
    }
    // The line that names the cut.
    let room = room.saturating_sub(14);
    let (start, n_start) = head(&text, room / 3);
    let (end, n_end) = tail(&text[start.len()..], room - room / 3);
    let n_cut = text.lines().count() - n_start - n_end;
    format!("{start}[... {n_cut} lines were cut here for lack of room ...]\n{end}")
}

/// Longer lines say nothing to a reader: minified code, data.
const MAX_LINE_CHARS: usize = 1000;

fn short_line(line: &str) -> String {
    if line.len() <= MAX_LINE_CHARS {
        return line.to_owned();
    }
    let start: String = line.chars().take(MAX_LINE_CHARS).collect();
    if start.len() == line.len() {
        return start;
    }
    let end = if line.ends_with('\n') { "\n" } else { "" };
    format!("{} [... line cut ...]{end}", start.trim_end_matches('\n'))
}

/// Shares `room` among `wants`: whoever wants little gets it, the others get equal parts of the rest. In the order of `wants`.
pub(super) fn shares(wants: &[usize], room: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|at| wants[*at]);
    let mut shares = vec![0; wants.len()];
    let mut left = room;
    for (done, at) in order.iter().enumerate() {
        shares[*at] = wants[*at].min(left / (wants.len() - done));
        left -= shares[*at];
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_are_a_quarter_of_ascii_and_all_other_characters() {
        for (text, expected) in [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("äöü", 3), ("abcd🦀", 2), ("日本語", 3)]
        {
            assert_eq!(tokens(text), expected, "{text}");
        }
    }

    #[test]
    fn a_cut_text_keeps_start_and_end_and_says_so() {
        let text: String = (1..=100).map(|n| format!("line {n:03}\n")).collect();
        let cut = without_middle(&text, 60);
        assert!(cut.starts_with("line 001\n") && cut.ends_with("line 100\n"), "{cut}");
        assert!(cut.contains("\n[... 85 lines were cut here for lack of room ...]\n"), "{cut}");
        assert!(tokens(&cut) <= 60);
        assert_eq!(without_middle(&text, 10_000), text);
        let long = format!("{}\nend\n", "x".repeat(5_000));
        assert!(without_middle(&long, 400).ends_with("x [... line cut ...]\nend\n"));
    }

    #[test]
    fn room_is_shared_fairly() {
        assert_eq!(shares(&[10, 100, 1], 61), [10, 50, 1]);
        assert_eq!(shares(&[100, 100, 100], 90), [30, 30, 30]);
        assert_eq!(shares(&[1, 2], 10), [1, 2]);
        assert_eq!(shares(&[], 10), [0; 0]);
    }

    proptest! {
        #[test]
        fn shares_never_exceed_room_or_wish(wants in prop::collection::vec(0_usize..1000, 0..20), room in 0_usize..5000) {
            let shares = shares(&wants, room);
            prop_assert!(shares.iter().sum::<usize>() <= room);
            prop_assert!(shares.iter().zip(&wants).all(|(share, want)| share <= want));
        }

        #[test]
        fn a_cut_text_fits(text in "(\\PC{0,40}\n){0,40}", room in 20_usize..200) {
            prop_assert!(tokens(&without_middle(&text, room)) <= room.max(tokens("[... 40 lines were cut here for lack of room ...]\n")));
        }
    }
}
