//! The forms in which a value may have been written down. `docs/architecture.md` promises these and no others.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use data_encoding::{BASE64, BASE64URL, Encoding, HEXLOWER, HEXUPPER};

use super::MINIMUM_LENGTH;

/// A value in one encoding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Form {
    /// The part of the text that depends on the value alone.
    pub(super) text: Vec<u8>,
    /// Digits in front of it, and behind it, that hold the rest of the value.
    pub(super) around: (usize, usize),
    /// Whether encoders break lines in it.
    is_wrapped: bool,
}

impl Form {
    /// A text that stands for itself.
    pub(super) fn plain(text: impl Into<Vec<u8>>) -> Self {
        Self { text: text.into(), around: (0, 0), is_wrapped: false }
    }

    /// Texts of which one is in any line by line rendering of the form. Encoders break lines every 60 to 76 digits:
    /// whichever line a text falls into, one of two neighbouring parts of it is whole.
    pub(super) fn needles(self) -> Vec<Vec<u8>> {
        const LENGTH: usize = 28;
        if self.is_wrapped && self.text.len() > 2 * LENGTH {
            vec![self.text[..LENGTH].to_vec(), self.text[LENGTH..2 * LENGTH].to_vec()]
        } else {
            vec![self.text]
        }
    }
}

/// What an encoder for addresses leaves as it is, beside letters and digits: `quote` and `quote_plus` of Python (with and
/// without `safe`), `encodeURIComponent` of JavaScript.
const UNRESERVED: [&[u8]; 3] = [b"-_.~", b"-_.~/", b"-_.~!*'()"];

/// All forms of a value: plain, base64 in both alphabets and all three alignments, hexadecimal, URL-encoded.
pub(super) fn forms(value: &[u8]) -> BTreeSet<Form> {
    let mut forms = BTreeSet::from([Form::plain(value)]);
    for unreserved in UNRESERVED {
        for upper in [true, false] {
            let text = url_encoded(value, unreserved, upper);
            forms.insert(Form::plain(text.replace("%20", "+")));
            forms.insert(Form::plain(text));
        }
    }
    for text in [HEXLOWER.encode(value), HEXUPPER.encode(value)] {
        forms.insert(Form { text: text.into_bytes(), around: (0, 0), is_wrapped: true });
    }
    for alignment in 0..3 {
        forms.extend([BASE64, BASE64URL].map(|alphabet| base64(&alphabet, value, alignment)));
    }
    forms.retain(|form| form.text.len() >= MINIMUM_LENGTH);
    forms
}

fn url_encoded(value: &[u8], unreserved: &[u8], upper: bool) -> String {
    value.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || unreserved.contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing into a string cannot fail.
            let _ = if upper { write!(text, "%{byte:02X}") } else { write!(text, "%{byte:02x}") };
        }
        text
    })
}

/// Whether a byte may be a digit of base64, or fill its last group up.
pub(super) fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte)
}

/// The whole groups of base64 of a value that starts `alignment` bytes after a group's start.
fn base64(alphabet: &Encoding, value: &[u8], alignment: usize) -> Form {
    let rest = value.get((3 - alignment) % 3..).unwrap_or_default();
    let (groups, behind) = rest.split_at(rest.len() - rest.len() % 3);
    let around = ([0, 3, 2][alignment], [0, 2, 3][behind.len()]);
    Form { text: alphabet.encode(groups).into_bytes(), around, is_wrapped: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promised_encoding_is_among_the_forms() {
        let forms = forms("pa ss/wörd!*'()~+x".as_bytes());
        for text in [
            "pa ss/wörd!*'()~+x",
            // Python: quote, quote_plus, quote(safe="").
            "pa%20ss/w%C3%B6rd%21%2A%27%28%29~%2Bx",
            "pa+ss%2Fw%C3%B6rd%21%2A%27%28%29~%2Bx",
            "pa%20ss%2Fw%C3%B6rd%21%2A%27%28%29~%2Bx",
            // JavaScript: encodeURIComponent.
            "pa%20ss%2Fw%C3%B6rd!*'()~%2Bx",
            "pa%20ss%2fw%c3%b6rd!*'()~%2bx",
            "70612073732f77c3b67264212a2728297e2b78",
            "70612073732F77C3B67264212A2728297E2B78",
            "cGEgc3Mvd8O2cmQhKicoKX4r",
            "cGEgc3Mvd8O2cmQhKicoKX4r",
        ] {
            assert!(forms.iter().any(|form| form.text == text.as_bytes()), "{text}");
        }
    }
}
