//! Output without secrets.

use std::ops::Range;

use lamina_image::{MASK, redact};
use memchr::memmem;

use super::forms::{Form, forms, is_base64};
use super::{MASK_MINIMUM, MINIMUM_LENGTH};

/// What must not be shown: values, their lines, and the forms in which they may be written down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Masks {
    forms: Vec<Form>,
}

impl Masks {
    /// Masks for these values.
    pub(crate) fn new<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut masks = Vec::new();
        for value in values {
            masks.extend(value.lines().filter(|line| line.len() >= MASK_MINIMUM).map(Form::plain));
            if value.len() >= MINIMUM_LENGTH {
                masks.extend(forms(value.as_bytes()));
            }
        }
        for form in &mut masks {
            // Texts are compared without their line ends, wherever they are broken.
            form.text.retain(|byte| !matches!(byte, b'\n' | b'\r'));
        }
        masks.retain(|form| form.text.len() >= MASK_MINIMUM);
        masks.sort();
        masks.dedup();
        Self { forms: masks }
    }

    /// A text without secrets and without credentials of addresses.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut masker = Masker::new(self.clone());
        text.split('\n').map(|line| masker.line(line.as_bytes())).collect::<Vec<_>>().join("\n")
    }

    /// Bytes of earlier lines that have to be known to find what goes on in the next one.
    fn memory(&self) -> usize {
        self.forms.iter().map(|form| form.text.len() + form.around.0 + form.around.1).max().unwrap_or(0)
    }

    /// Where secrets are, and where one may begin that goes on in the next line.
    fn find(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for form in &self.forms {
            let (before, after) = form.around;
            for start in memmem::find_iter(text, &form.text) {
                let end = start + form.text.len();
                let front = text[start.saturating_sub(before)..start].iter().rev();
                let front = front.take_while(|byte| is_base64(**byte)).count();
                let mut end = end + text[end..].iter().take(after).take_while(|byte| is_base64(**byte)).count();
                if after > 0 {
                    end += text[end..].iter().take_while(|byte| **byte == b'=').count();
                }
                found.push(start - front..end);
            }
            if let Some(start) = beginning(text, &form.text) {
                found.push(start.saturating_sub(before)..text.len());
            }
        }
        found.sort_unstable_by_key(|range| (range.start, range.end));
        found
    }
}

/// Where the end of `text` is a part of the beginning of `form` that is too long for an accident.
fn beginning(text: &[u8], form: &[u8]) -> Option<usize> {
    let first = form.get(..MINIMUM_LENGTH)?;
    let from = text.len().saturating_sub(form.len() - 1);
    let mut starts = memmem::find_iter(&text[from..], first).map(|start| from + start);
    starts.find(|start| form.starts_with(&text[*start..]))
}

/// Masks output line by line. A secret that is spread over several lines is found too.
#[derive(Debug, Default)]
pub(crate) struct Masker {
    masks: Masks,
    memory: usize,
    /// The end of what came before, without line ends.
    before: Vec<u8>,
}

impl Masker {
    pub(crate) fn new(masks: Masks) -> Self {
        let memory = masks.memory();
        Self { masks, memory, before: Vec::new() }
    }

    /// What it masks.
    pub(crate) fn masks(&self) -> &Masks {
        &self.masks
    }

    /// The next line, or piece of one, as it may be shown.
    pub(crate) fn line(&mut self, line: &[u8]) -> String {
        if self.memory == 0 {
            return redact(&String::from_utf8_lossy(line)).into_owned();
        }
        let start = self.before.len();
        self.before.extend_from_slice(line);
        let text = &self.before;
        let (mut shown, mut at, mut is_masked) = (Vec::with_capacity(line.len()), start, false);
        for range in self.masks.find(text).into_iter().filter(|range| range.end > start) {
            let from = range.start.max(start);
            if from > at || !is_masked {
                shown.extend_from_slice(&text[at..from]);
                shown.extend_from_slice(MASK.as_bytes());
            }
            (at, is_masked) = (at.max(range.end), true);
        }
        shown.extend_from_slice(&text[at..]);
        let forgotten = text.len().saturating_sub(self.memory);
        self.before.drain(..forgotten);
        redact(&String::from_utf8_lossy(&shown)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masker(value: &str) -> Masker {
        Masker::new(Masks::new([value].into_iter()))
    }

    /// A value of 100 characters without a repetition that could hide a mistake.
    fn long() -> String {
        (0..50_u32).map(|index| format!("{:02x}", index * 37 % 251)).collect::<Vec<_>>().concat()
    }

    #[test]
    fn whole_values_are_masked_in_every_form() {
        let value = long();
        for form in forms(value.as_bytes()) {
            let text = String::from_utf8(form.text).unwrap();
            let shown = masker(&value).line(format!("<{text}>").as_bytes());
            assert_eq!(shown, "<***>", "{text}");
        }
        // base64 as programs write it, with the ends of the value in groups that it shares with others.
        for (text, shown) in [
            ("is czNjcjN0L3ZhbHVlKzE= here", "is *** here"),
            ("eHMzY3IzdC92YWx1ZSsx", "e***"),
            ("eHhzM2NyM3QvdmFsdWUrMQ==", "eH***"),
            ("s3cr3t/value+1s3cr3t/value+1", "***"),
        ] {
            let seen = masker("s3cr3t/value+1").line(text.as_bytes());
            assert!(seen.replace("******", "***") == shown, "{text}: {seen}");
        }
    }

    #[test]
    fn values_are_masked_across_lines() {
        let value = long();
        for form in forms(value.as_bytes()) {
            for (width, padding) in [(60, 0), (60, 17), (76, 30), (40, 39)] {
                let text = [vec![b'='; padding], form.text.clone(), b"!".to_vec()].concat();
                let mut masker = masker(&value);
                let shown: Vec<String> = text.chunks(width).map(|line| masker.line(line)).collect();
                let left: usize = shown.iter().map(|line| line.replace(MASK, "").trim_matches(['=', '!']).len()).sum();
                assert!(left < MINIMUM_LENGTH, "{width} {padding}: {shown:?}");
            }
        }
    }

    #[test]
    fn every_line_of_a_value_is_masked() {
        let masks = Masks::new(["first line\nsecond line\nx"].into_iter());
        assert_eq!(masks.text("1 first line.\nsecond line\nx y"), "1 ***.\n***\nx y");
        assert_eq!(masks.text("Zmlyc3QgbGluZQpzZWNvbmQgbGluZQp4"), "***");
        assert_eq!(Masks::default().text("from https://me:secret@host/x"), "from https://***@host/x");
    }

    #[test]
    fn what_comes_before_a_secret_stays_readable() {
        let mut masker = masker("hunter2hunter2");
        let lines =
            ["a hunter2", "hunter2 b", "", "hunter3", "ends with hunter2h", "hunter2hunter2hunter2hunter2", "z"];
        let shown = lines.map(|line| masker.line(line.as_bytes()));
        assert_eq!(shown, ["a hunter2", "*** b", "", "hunter3", "ends with ***", "***", "z"]);
    }
}
