//! The envelope of a record in sled: 24 bytes ahead of the payload, little-endian. `docs/disk-format.md` shows the table.
//!
//! ```text
//!  0  4  magic "SFE1"
//!  4  2  tag of the record's kind
//!  6  2  version of its layout
//!  8  4  generation: another one for each write, so that the parts of two records under one key stay apart
//! 12  4  length of the whole payload
//! 16  2  further parts (0: the payload follows here)
//! 18  2  zero
//! 20  4  CRC-32 of bytes 0 to 19 and the whole payload
//! ```

use crate::record::{MAX_PAYLOAD_BYTES, Record};

const MAGIC: &[u8; 4] = b"SFE1";
pub(super) const HEADER: usize = 24;
/// sled moves a leaf over about 128 KiB into a file of its own that nobody syncs, and leaks space with large values; with
/// parts of this size it makes no such files, and a record of 4 KiB is still one value.
pub(super) const PART_BYTES: usize = 4608;

/// A header that reads, and what lies behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    tag: u16,
    version: u16,
    pub(super) generation: u32,
    length: u32,
    pub(super) n_parts: u16,
    checksum: u32,
    head: &'a [u8],
    /// The payload, where there are no further parts.
    pub(super) inline: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl<'a> Envelope<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.len() < HEADER || &bytes[..4] != MAGIC {
            return Err("it has no envelope".to_owned());
        }
        let envelope = Self {
            tag: u16_at(bytes, 4),
            version: u16_at(bytes, 6),
            generation: u32_at(bytes, 8),
            length: u32_at(bytes, 12),
            n_parts: u16_at(bytes, 16),
            checksum: u32_at(bytes, 20),
            head: &bytes[..20],
            inline: &bytes[HEADER..],
        };
        if envelope.length as usize > MAX_PAYLOAD_BYTES
            || usize::from(envelope.n_parts) > MAX_PAYLOAD_BYTES / PART_BYTES + 1
        {
            return Err("its envelope names an impossible length".to_owned());
        }
        Ok(envelope)
    }

    /// The record, when length and checksum agree with the joined payload.
    pub(super) fn verify(&self, payload: Vec<u8>) -> Result<Record, String> {
        if payload.len() != self.length as usize {
            return Err(format!("it has {} bytes and should have {}", payload.len(), self.length));
        }
        if checksum(self.head, &payload) != self.checksum {
            return Err("its checksum does not match".to_owned());
        }
        Ok(Record { tag: self.tag, version: self.version, payload })
    }
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

/// Where a further part of a record lies.
pub(super) fn part_key(raw: &[u8], generation: u32, part: u16) -> Vec<u8> {
    let mut key = [b"~/", raw, b"/"].concat();
    key.extend_from_slice(&generation.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// The values that a record becomes: one, or a header and its parts.
pub(super) fn seal(raw: &[u8], record: &Record, generation: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
    let parts: Vec<&[u8]> =
        if record.payload.len() <= PART_BYTES { Vec::new() } else { record.payload.chunks(PART_BYTES).collect() };
    let mut head = Vec::with_capacity(HEADER + if parts.is_empty() { record.payload.len() } else { 0 });
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&record.tag.to_le_bytes());
    head.extend_from_slice(&record.version.to_le_bytes());
    head.extend_from_slice(&generation.to_le_bytes());
    head.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
    head.extend_from_slice(&(parts.len() as u16).to_le_bytes());
    head.extend_from_slice(&[0, 0]);
    let sum = checksum(&head, &record.payload);
    head.extend_from_slice(&sum.to_le_bytes());
    if parts.is_empty() {
        head.extend_from_slice(&record.payload);
    }
    let mut values = vec![(raw.to_vec(), head)];
    for (at, part) in parts.into_iter().enumerate() {
        values.push((part_key(raw, generation, at as u16), part.to_vec()));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_bytes_never_change() {
        let record = Record { tag: 7, version: 2, payload: b"ab".to_vec() };
        let sealed = seal(b"k", &record, 3);
        let mut expected = b"SFE1\x07\0\x02\0\x03\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        let sum = crc32fast::hash(&[expected.as_slice(), b"ab"].concat());
        expected.extend_from_slice(&sum.to_le_bytes());
        expected.extend_from_slice(b"ab");
        assert_eq!(sealed, [(b"k".to_vec(), expected)]);
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926, "the checksum is CRC-32 (IEEE)");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let record = Record { tag: 1, version: 1, payload: vec![0x5a; 40] };
        let (_, sealed) = seal(b"k", &record, 0).remove(0);
        for bit in 0..sealed.len() * 8 {
            let mut broken = sealed.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let read = Envelope::parse(&broken).and_then(|envelope| envelope.verify(envelope.inline.to_vec()));
            assert!(read.is_err(), "bit {bit}");
        }
    }
}
