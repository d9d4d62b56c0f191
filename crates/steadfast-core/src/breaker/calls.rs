//! Which calls of the current epoch have not reported yet, in one bit each.

use std::collections::VecDeque;

/// 1,048,576 calls, 128 KiB: far beyond what one model has under way, and a bound on what lost calls can cost.
const MAX_WORDS: usize = 1 << 14;

/// Calls get ascending numbers that are never used twice. A window of bits slides over them: it begins at the oldest
/// call that has not reported, so callers that report keep it one or two words long, with no allocation.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenCalls {
    /// The call of the first bit.
    base: u64,
    /// The number of the next call.
    next: u64,
    /// Set bits: calls that have not reported.
    words: VecDeque<u64>,
}

impl OpenCalls {
    /// The number of a new call.
    pub(super) fn open(&mut self) -> u64 {
        let call = self.next;
        self.next += 1;
        let bit = call - self.base;
        if bit / 64 == self.words.len() as u64 {
            if self.words.len() == MAX_WORDS {
                self.words.pop_front();
                self.base += 64;
            }
            self.words.push_back(0);
        }
        if let Some(last) = self.words.back_mut() {
            *last |= 1 << (bit % 64);
        }
        call
    }

    /// Whether the call is known and reports for the first time.
    pub(super) fn close(&mut self, call: u64) -> bool {
        let Some(bit) = call.checked_sub(self.base) else {
            return false;
        };
        let word = usize::try_from(bit / 64).ok().and_then(|at| self.words.get_mut(at));
        let Some(word) = word else { return false };
        let mask = 1 << (bit % 64);
        let first = *word & mask != 0;
        *word &= !mask;
        // The last word may still get bits.
        while self.words.len() > 1 && self.words.front() == Some(&0) {
            self.words.pop_front();
            self.base += 64;
        }
        first
    }

    /// Forgets all calls; keeps counting and keeps its memory for the next ones.
    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.base = self.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_reports_for_the_first_time_once() {
        let mut calls = OpenCalls::default();
        let numbers: Vec<u64> = (0..1000).map(|_| calls.open()).collect();
        for &call in numbers.iter().rev() {
            assert!(calls.close(call));
        }
        for &call in &numbers {
            assert!(!calls.close(call));
        }
        assert!(!calls.close(1000), "a number that was not given out yet");
    }

    #[test]
    fn callers_that_report_keep_it_small() {
        let mut calls = OpenCalls::default();
        for _ in 0..100_000 {
            let (one, two) = (calls.open(), calls.open());
            assert!(calls.close(two) && calls.close(one));
            assert!(calls.words.len() <= 2);
        }
        assert!(calls.words.capacity() <= 8);
    }

    #[test]
    fn callers_that_never_report_cannot_fill_the_memory() {
        let mut calls = OpenCalls::default();
        let first = calls.open();
        for _ in 0..(MAX_WORDS * 64 + 10) {
            calls.open();
        }
        let last = calls.open();
        assert_eq!(calls.words.len(), MAX_WORDS);
        assert!(!calls.close(first), "forgotten");
        assert!(calls.close(last));
    }

    #[test]
    fn a_cleared_window_knows_no_older_call() {
        let mut calls = OpenCalls::default();
        let old = calls.open();
        calls.clear();
        assert!(!calls.close(old));
        let new = calls.open();
        assert_ne!(old, new);
        assert!(calls.close(new));
    }
}
