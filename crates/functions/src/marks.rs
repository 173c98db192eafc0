//! Marks in the output of a container that runs several inputs at a time: they say which one prints what follows.
//!
//! A mark is `\0`, the token that the runner was given, `:`, the number of the input (0: none that is known) and `\0`. The
//! token is random, so that nothing contains one by accident; one that is forged misleads about the forger's own output.

/// Most digits of a number.
const MOST_DIGITS: usize = 20;

/// The marks of one stream.
#[derive(Debug)]
pub(crate) struct Marks {
    /// How each begins.
    prefix: Vec<u8>,
    /// What may be the beginning of one.
    held: Vec<u8>,
    /// The input that prints what comes.
    call: u64,
}

impl Marks {
    /// Those with this token.
    pub(crate) fn new(token: &str) -> Self {
        Self { prefix: format!("\0{token}:").into_bytes(), held: Vec::new(), call: 0 }
    }

    /// Takes the marks out of what was printed: gives each piece with the number of the input that has printed it, 0 if none is
    /// known.
    pub(crate) fn split(&mut self, bytes: &[u8], mut each: impl FnMut(u64, &[u8])) {
        let mut joined = std::mem::take(&mut self.held);
        let mut rest = bytes;
        if !joined.is_empty() {
            joined.extend_from_slice(bytes);
            rest = &joined;
        }
        let mut plain = 0;
        while let Some(found) = rest[plain..].iter().position(|byte| *byte == 0) {
            let at = plain + found;
            match self.mark(&rest[at..]) {
                Found::Mark { call, length } => {
                    show(self.call, &rest[..at], &mut each);
                    self.call = call;
                    rest = &rest[at + length..];
                    plain = 0;
                }
                Found::Beginning => {
                    show(self.call, &rest[..at], &mut each);
                    self.held = rest[at..].to_vec();
                    return;
                }
                Found::Nothing => plain = at + 1,
            }
        }
        show(self.call, rest, &mut each);
    }

    /// What was held and turned out to be no mark.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        // A mark that the container's end has torn was never printed.
        if held.len() >= self.prefix.len() { Vec::new() } else { held }
    }

    fn mark(&self, bytes: &[u8]) -> Found {
        let Some(rest) = bytes.strip_prefix(&*self.prefix) else {
            return if self.prefix.starts_with(bytes) { Found::Beginning } else { Found::Nothing };
        };
        let Some(digits) = rest.iter().take(MOST_DIGITS + 1).position(|byte| !byte.is_ascii_digit()) else {
            return if rest.len() <= MOST_DIGITS { Found::Beginning } else { Found::Nothing };
        };
        let call = str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse().ok());
        match call.filter(|_| rest[digits] == 0) {
            Some(call) => Found::Mark { call, length: self.prefix.len() + digits + 1 },
            None => Found::Nothing,
        }
    }
}

/// What stands at a zero byte.
enum Found {
    Mark { call: u64, length: usize },
    Beginning,
    Nothing,
}

fn show(call: u64, bytes: &[u8], each: &mut impl FnMut(u64, &[u8])) {
    if !bytes.is_empty() {
        each(call, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each piece with the input that has printed it, however the bytes arrive.
    fn read(pieces: &[&[u8]]) -> Vec<(u64, String)> {
        let (mut marks, mut shown) = (Marks::new("T"), Vec::<(u64, String)>::new());
        let mut add = |call: u64, bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            match shown.last_mut().filter(|(last, _)| *last == call) {
                Some((_, before)) => before.push_str(&text),
                None => shown.push((call, text.into_owned())),
            }
        };
        for piece in pieces {
            marks.split(piece, &mut add);
        }
        let left = marks.finish();
        if !left.is_empty() {
            add(marks.call, &left);
        }
        shown
    }

    #[test]
    fn every_piece_has_its_input_wherever_the_stream_is_cut() {
        let stream: &[u8] = b"\0a\0T:7\0one\n\0T:0\0child\n\0T:18446744073709551615\0two\0T:x\0\0";
        let whole = [
            (0, "\0a".to_owned()),
            (7, "one\n".to_owned()),
            (0, "child\n".to_owned()),
            (u64::MAX, "two\0T:x\0\0".to_owned()),
        ];
        assert_eq!(read(&[stream]), whole);
        for cut in 0..stream.len() {
            assert_eq!(read(&[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&bytes), whole);
    }

    #[test]
    fn a_torn_mark_is_not_shown() {
        assert_eq!(read(&[b"out\0T:1"]), [(0, "out".to_owned())]);
        assert_eq!(read(&[b"out\0"]), [(0, "out\0".to_owned())]);
    }
}
