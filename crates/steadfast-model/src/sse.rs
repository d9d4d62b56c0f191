//! Server-sent events, read as they come: any line end, any border between chunks, also inside a character.
//!
//! Follows the event stream format of the HTML standard (section 9.2), and is more lenient where servers are: a last
//! event without its blank line counts, and a field `error` (llama.cpp before 2024) is data of an event of that name.

/// The longest line and the most data of one event, in bytes.
pub(crate) const MAX_EVENT_BYTES: usize = 4 << 20;

/// One event. Both texts borrow from the parser.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    /// Empty when the event has no name.
    pub(crate) name: &'a str,
    /// The lines of data, joined by `\n`; never empty.
    pub(crate) data: &'a str,
}

/// Why the bytes are no event stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SseFault {
    TooLong,
    NotUtf8,
}

/// Holds at most one unfinished line and the data of one unfinished event.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    /// Data lines of this event so far; an event without any is dropped.
    data_lines: usize,
    /// The last chunk ended in CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The first line has been seen, so that a byte order mark can no longer come.
    begun: bool,
}

impl SseParser {
    /// Takes the next bytes and hands each event that they complete to `on_event`. Stops at its first error.
    pub(crate) fn feed<E: From<SseFault>>(
        &mut self,
        mut bytes: &[u8],
        on_event: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.after_cr && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            self.after_cr = false;
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.line.is_empty() {
                self.take_line(line, on_event)?;
            } else {
                self.hold(line)?;
                let whole = std::mem::take(&mut self.line);
                self.take_line(&whole, on_event)?;
                // The buffer is handed back for the next line that lies across a border.
                self.line = whole;
                self.line.clear();
            }
            bytes = match (bytes[end], rest) {
                (b'\r', []) => {
                    self.after_cr = true;
                    rest
                }
                (b'\r', [b'\n', rest @ ..]) => rest,
                _ => rest,
            };
        }
        Ok(self.hold(bytes)?)
    }

    /// The stream has ended cleanly: what stands there without its blank line is an event, too.
    pub(crate) fn finish<E: From<SseFault>>(
        &mut self,
        on_event: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.take_line(&line, on_event)?;
        }
        self.take_line(b"", on_event)
    }

    fn hold(&mut self, part: &[u8]) -> Result<(), SseFault> {
        if self.line.len() + part.len() > MAX_EVENT_BYTES {
            return Err(SseFault::TooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn take_line<E: From<SseFault>>(
        &mut self,
        mut line: &[u8],
        on_event: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.begun {
            self.begun = true;
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch(on_event);
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or(b"");
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => self.add_data(value)?,
            b"event" => value.clone_into(&mut self.name),
            b"error" => {
                b"error".as_slice().clone_into(&mut self.name);
                self.add_data(value)?;
            }
            // Comments (an empty name), `id`, `retry` and whatever else: of no use here.
            _ => {}
        }
        Ok(())
    }

    fn add_data(&mut self, value: &[u8]) -> Result<(), SseFault> {
        if self.data.len() + value.len() >= MAX_EVENT_BYTES {
            return Err(SseFault::TooLong);
        }
        if self.data_lines > 0 {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.data_lines += 1;
        Ok(())
    }

    fn dispatch<E: From<SseFault>>(&mut self, on_event: &mut impl FnMut(Event<'_>) -> Result<(), E>) -> Result<(), E> {
        let outcome = if self.data.is_empty() {
            Ok(())
        } else {
            match (str::from_utf8(&self.name), str::from_utf8(&self.data)) {
                (Ok(name), Ok(data)) => on_event(Event { name, data }),
                _ => Err(SseFault::NotUtf8.into()),
            }
        };
        self.name.clear();
        self.data.clear();
        self.data_lines = 0;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&[u8]]) -> Result<Vec<(String, String)>, SseFault> {
        let mut events = Vec::new();
        let mut parser = SseParser::default();
        let mut on_event = |event: Event<'_>| {
            events.push((event.name.to_owned(), event.data.to_owned()));
            Ok::<_, SseFault>(())
        };
        for chunk in chunks {
            parser.feed(chunk, &mut on_event)?;
        }
        parser.finish(&mut on_event)?;
        Ok(events)
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    const STREAM: &str = "\u{feff}: hello\r\ndata: {\"ä\": 1}\r\n\r\nevent: x\rdata:one\rdata: two\r\rid: 7\nretry: 1\n\n\
                          data\n\nevent: lost\n\ndata:  spaced\n\nerror: {}\n\ndata: last";

    fn expected() -> Vec<(String, String)> {
        vec![
            event("", "{\"ä\": 1}"),
            event("x", "one\ntwo"),
            event("", " spaced"),
            event("error", "{}"),
            event("", "last"),
        ]
    }

    #[test]
    fn every_line_end_comment_and_missing_space_is_understood() {
        assert_eq!(parse(&[STREAM.as_bytes()]), Ok(expected()));
    }

    #[test]
    fn borders_between_chunks_make_no_difference() {
        let bytes = STREAM.as_bytes();
        for first in 0..=bytes.len() {
            for second in [first, bytes.len().min(first + 1), bytes.len().min(first + 5)] {
                let chunks = [&bytes[..first], &bytes[first..second], b"", &bytes[second..]];
                assert_eq!(parse(&chunks), Ok(expected()), "cut at {first} and {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(parse(&single), Ok(expected()));
    }

    #[test]
    fn an_event_that_is_too_long_or_no_utf8_is_a_fault() {
        let long = vec![b'x'; MAX_EVENT_BYTES + 1];
        assert_eq!(parse(&[&long]), Err(SseFault::TooLong));
        let line = [b"data: ".as_slice(), &vec![b'x'; MAX_EVENT_BYTES / 2], b"\n"].concat();
        assert_eq!(parse(&[&line, &line]), Err(SseFault::TooLong));
        assert_eq!(parse(&[b"data: \xff\n\n"]), Err(SseFault::NotUtf8));
    }
}
