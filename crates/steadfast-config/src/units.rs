//! Durations and sizes as people write them.

use std::time::Duration;

/// Why a text is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// A number alone.
    #[error("{text:?} has no unit; write {}", example(text, units))]
    NoUnit {
        /// As given.
        text: String,
        /// Units to propose.
        units: [&'static str; 2],
    },
    /// A unit that does not exist.
    #[error("{unit:?} in {text:?} is no unit; use {known}")]
    UnknownUnit {
        /// As given.
        text: String,
        /// The part that is no unit.
        unit: String,
        /// Those that are.
        known: &'static str,
    },
    /// No number where one should be, or a number with more than nine decimals.
    #[error("{text:?} is not written as a number with a unit; write for example {example}")]
    Shape {
        /// As given.
        text: String,
        /// A good one.
        example: &'static str,
    },
    /// Too large.
    #[error("{text:?} is more than {limit}")]
    TooLarge {
        /// As given.
        text: String,
        /// The largest.
        limit: &'static str,
    },
}

fn example(text: &str, units: &[&'static str; 2]) -> String {
    let number = text.trim();
    format!("\"{number}{}\" or \"{number}{}\"", units[0], units[1])
}

/// The longest duration: 100 years of 365 days. Adding it to any clock reading is safe.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

const MS: u128 = 1_000_000;
const S: u128 = 1_000 * MS;

struct Measure {
    /// Lower-case words and what they stand for.
    units: &'static [(&'static str, u128)],
    known: &'static str,
    proposed: [&'static str; 2],
    example: &'static str,
}

const TIME: Measure = Measure {
    units: &[
        ("ms", MS),
        ("millisecond", MS),
        ("s", S),
        ("sec", S),
        ("second", S),
        ("m", 60 * S),
        ("min", 60 * S),
        ("minute", 60 * S),
        ("h", 3600 * S),
        ("hour", 3600 * S),
        ("d", 86_400 * S),
        ("day", 86_400 * S),
        ("w", 7 * 86_400 * S),
        ("week", 7 * 86_400 * S),
    ],
    known: "ms, s, min, h, d or w",
    proposed: ["s", "min"],
    example: "\"90s\" or \"1h 30min\"",
};

const SIZE: Measure = Measure {
    units: &[
        ("b", 1),
        ("byte", 1),
        ("kb", 1_000),
        ("kib", 1 << 10),
        ("mb", 1_000_000),
        ("mib", 1 << 20),
        ("gb", 1_000_000_000),
        ("gib", 1 << 30),
        ("tb", 1_000_000_000_000),
        ("tib", 1 << 40),
    ],
    known: "B, kB, KiB, MB, MiB, GB, GiB, TB or TiB",
    proposed: [" MiB", " GB"],
    example: "\"512 MiB\" or \"1 GB\"",
};

impl Measure {
    fn factor(&self, unit: &str) -> Option<u128> {
        let unit = unit.to_lowercase();
        // Plural of the words, not of the symbols: "2 days", but not "2 mins s".
        let singular = unit.strip_suffix('s').filter(|word| word.len() > 2).unwrap_or(&unit);
        self.units.iter().find(|(name, _)| *name == unit || *name == singular).map(|(_, factor)| *factor)
    }

    fn shape(&self, text: &str) -> UnitError {
        UnitError::Shape { text: text.to_owned(), example: self.example }
    }

    /// Sum of `number unit` parts, in the measure's smallest unit. `None`: it does not even fit into 128 bits.
    fn sum(&self, text: &str) -> Result<Option<u128>, UnitError> {
        let mut rest = text.trim();
        let mut sum = Some(0_u128);
        if rest.is_empty() {
            return Err(self.shape(text));
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(end);
            let after = after.trim_start();
            let end = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            rest = after.trim_start();
            let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
            let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            if !plain(whole) || !plain(decimals) || decimals.len() > 9 {
                return Err(self.shape(text));
            }
            if unit.is_empty() {
                let number_alone = number.len() == text.trim().len();
                let text = text.to_owned();
                return Err(if number_alone {
                    UnitError::NoUnit { text, units: self.proposed }
                } else {
                    self.shape(&text)
                });
            }
            let factor = self.factor(unit).ok_or_else(|| UnitError::UnknownUnit {
                text: text.to_owned(),
                unit: unit.to_owned(),
                known: self.known,
            })?;
            let whole = whole.parse::<u128>().ok().and_then(|whole| whole.checked_mul(factor));
            // At most nine digits times at most 2^50: far from the end of 128 bits.
            let part =
                decimals.parse::<u128>().map_or(0, |digits| digits * factor / 10_u128.pow(decimals.len() as u32));
            sum = sum.zip(whole).and_then(|(sum, whole)| sum.checked_add(whole)?.checked_add(part));
        }
        Ok(sum)
    }
}

/// Reads `"90s"`, `"1h 30min"`, `"1.5h"`, `"250ms"`, `"2 days"`: one or more numbers, each with a unit, that are added up.
/// Units: ms, s (sec, second), min (m, minute), h (hour), d (day), w (week), in any case, also in the plural.
///
/// # Errors
/// [`UnitError`]; a number without a unit is one, and so is more than 100 years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let nanos = TIME.sum(text)?.filter(|nanos| *nanos <= LONGEST.as_nanos());
    let nanos = nanos.ok_or_else(|| UnitError::TooLarge { text: text.to_owned(), limit: "100 years" })?;
    Ok(Duration::new((nanos / S) as u64, (nanos % S) as u32))
}

/// Reads `"512 MiB"`, `"1GB"`, `"1.5 GiB"` into bytes. kB, MB, GB and TB count in thousands, KiB, MiB, GiB and TiB in 1024.
///
/// # Errors
/// [`UnitError`]; a number without a unit is one, and so is more than 2⁶³ − 1 bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let bytes = SIZE.sum(text)?.filter(|bytes| *bytes <= i64::MAX as u128);
    let bytes = bytes.ok_or_else(|| UnitError::TooLarge { text: text.to_owned(), limit: "8 EiB" })?;
    Ok(bytes as u64)
}

/// Writes a duration so that [`parse_duration`] reads it back, to the millisecond: `1h 30min`.
pub fn show_duration(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, millis) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= millis {
            parts.push(format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// Writes a size so that [`parse_size`] reads it back: in the largest binary unit that divides it.
pub fn show_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("90s", 90_000),
            ("5min", 300_000),
            ("5m", 300_000),
            ("1h 30m", 5_400_000),
            ("1h30min", 5_400_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("2 days", 172_800_000),
            (" 1 week ", 604_800_000),
            ("0s", 0),
            ("1 Hour", 3_600_000),
            ("3 secs", 3_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("512 MiB", 512 << 20), ("1GB", 1_000_000_000), ("1.5 GiB", 3 << 29), ("0 B", 0), ("7 bytes", 7)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_told_why() {
        let said = |text: &str| parse_duration(text).map_err(|error| error.to_string());
        let all: Vec<String> = ["90", "90 x", "", "s", "-1s", "1s 5", "1..5s", "99999999 weeks"]
            .into_iter()
            .map(|text| said(text).expect_err(text))
            .collect();
        assert_eq!(
            all,
            [
                r#""90" has no unit; write "90s" or "90min""#,
                r#""x" in "90 x" is no unit; use ms, s, min, h, d or w"#,
                r#""" is not written as a number with a unit; write for example "90s" or "1h 30min""#,
                r#""s" is not written as a number with a unit; write for example "90s" or "1h 30min""#,
                r#""-1s" is not written as a number with a unit; write for example "90s" or "1h 30min""#,
                r#""1s 5" is not written as a number with a unit; write for example "90s" or "1h 30min""#,
                r#""1..5s" is not written as a number with a unit; write for example "90s" or "1h 30min""#,
                r#""99999999 weeks" is more than 100 years"#,
            ]
        );
    }

    #[test]
    fn what_is_no_size_is_told_why() {
        let said = |text: &str| parse_size(text).expect_err(text).to_string();
        assert_eq!(said("512"), r#""512" has no unit; write "512 MiB" or "512 GB""#);
        assert_eq!(said("5 M"), r#""M" in "5 M" is no unit; use B, kB, KiB, MB, MiB, GB, GiB, TB or TiB"#);
        assert_eq!(said("99999999999 TB"), r#""99999999999 TB" is more than 8 EiB"#);
    }

    #[test]
    fn what_is_shown_reads_back() {
        for millis in [0, 1, 999, 60_000, 5_400_000, 86_400_000 * 45 + 1] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1024, 512 << 20, 1_000_000_000, 3 << 40] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(show_duration(Duration::from_secs(5400)), "1h 30min");
        assert_eq!(show_size(512 << 20), "512 MiB");
    }
}
