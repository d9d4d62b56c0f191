//! Records: a payload that says what it is, and the typed way in and out.
//!
//! The payload is bincode 1.3 with fixed-size integers; that format is frozen. Layouts are frozen as well: a changed
//! type gets a new version number, and the old struct stays to decode old records.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{BackendError, StoreError};

/// The largest payload, in bytes. A model's answer is bounded well below it (SPEC 9: sizes are bounded everywhere).
pub const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// What a record holds: a tag that never changes its meaning, the version of its layout, and a name for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordKind {
    /// Unique among all kinds of the store, for ever.
    pub tag: u16,
    /// Version of the layout, raised by each change of it.
    pub version: u16,
    /// What people call it, e.g. `session`.
    pub name: &'static str,
}

impl RecordKind {
    /// A kind for a constant: `const HEAD: RecordKind = RecordKind::new(1, 1, "session");`
    pub const fn new(tag: u16, version: u16, name: &'static str) -> Self {
        Self { tag, version, name }
    }
}

/// A payload with its kind and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Tag of its [`RecordKind`].
    pub tag: u16,
    /// Version of its layout.
    pub version: u16,
    /// The encoded value, at most [`MAX_PAYLOAD_BYTES`].
    pub payload: Vec<u8>,
}

fn format() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(MAX_PAYLOAD_BYTES as u64).reject_trailing_bytes()
}

/// Encodes a value as a record of this kind.
///
/// The value's type must be fit for bincode: no `flatten`, `skip_serializing_if`, internally tagged enum or JSON value.
///
/// # Errors
/// [`StoreError::TooLarge`] over [`MAX_PAYLOAD_BYTES`], [`StoreError::Encode`] for a type that bincode refuses.
pub fn encode<T: Serialize + ?Sized>(kind: RecordKind, value: &T) -> Result<Record, StoreError> {
    match format().serialize(value) {
        Ok(payload) => Ok(Record { tag: kind.tag, version: kind.version, payload }),
        Err(error) => match *error {
            bincode::ErrorKind::SizeLimit => {
                let bytes = bincode::DefaultOptions::new()
                    .with_fixint_encoding()
                    .serialized_size(value)
                    .map_or(usize::MAX, |size| usize::try_from(size).unwrap_or(usize::MAX));
                Err(StoreError::TooLarge { bytes, limit: MAX_PAYLOAD_BYTES })
            }
            other => Err(StoreError::Encode { kind: kind.name, source: BackendError::new(other) }),
        },
    }
}

/// Decodes a record that must be of exactly this kind and version.
///
/// # Errors
/// [`StoreError::WrongKind`], [`StoreError::NewerVersion`], [`StoreError::OlderVersion`] (decode it with the kind of
/// that version and migrate), [`StoreError::Malformed`].
pub fn decode<T: DeserializeOwned>(kind: RecordKind, record: &Record) -> Result<T, StoreError> {
    if record.tag != kind.tag {
        return Err(StoreError::WrongKind { wanted: kind.name, found: record.tag });
    }
    match record.version.cmp(&kind.version) {
        std::cmp::Ordering::Greater => {
            Err(StoreError::NewerVersion { kind: kind.name, found: record.version, known: kind.version })
        }
        std::cmp::Ordering::Less => {
            Err(StoreError::OlderVersion { kind: kind.name, found: record.version, wanted: kind.version })
        }
        std::cmp::Ordering::Equal => format()
            .deserialize(&record.payload)
            .map_err(|error| StoreError::Malformed { kind: kind.name, source: BackendError::new(error) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: RecordKind = RecordKind::new(900, 1, "sample");
    const V2: RecordKind = RecordKind::new(900, 2, "sample");

    #[test]
    fn values_come_back_as_they_went_in() {
        let value = (7u32, "text".to_owned(), vec![Some(1u8), None]);
        let record = encode(V1, &value).expect("fits");
        assert_eq!(decode::<(u32, String, Vec<Option<u8>>)>(V1, &record), Ok(value));
    }

    #[test]
    fn payload_bytes_never_change() {
        let record = encode(V1, &(258u32, "ab")).expect("fits");
        assert_eq!(record.payload, [2, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
    }

    #[test]
    fn a_newer_record_is_refused_and_an_older_one_is_told() {
        let (old, new) = (encode(V1, &1u8).expect("fits"), encode(V2, &1u8).expect("fits"));
        assert_eq!(decode::<u8>(V1, &new), Err(StoreError::NewerVersion { kind: "sample", found: 2, known: 1 }));
        assert_eq!(decode::<u8>(V2, &old), Err(StoreError::OlderVersion { kind: "sample", found: 1, wanted: 2 }));
    }

    #[test]
    fn another_kind_and_trailing_bytes_are_refused() {
        let mut record = encode(V1, &1u8).expect("fits");
        let other = RecordKind::new(901, 1, "other");
        assert_eq!(decode::<u8>(other, &record), Err(StoreError::WrongKind { wanted: "other", found: 900 }));
        record.payload.push(0);
        assert!(matches!(decode::<u8>(V1, &record), Err(StoreError::Malformed { .. })));
    }

    #[test]
    fn a_value_over_the_limit_is_refused_with_its_size() {
        let value = vec![0u8; MAX_PAYLOAD_BYTES];
        let expected = StoreError::TooLarge { bytes: MAX_PAYLOAD_BYTES + 8, limit: MAX_PAYLOAD_BYTES };
        assert_eq!(encode(V1, &value), Err(expected));
    }
}
