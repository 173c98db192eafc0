//! The `Field: value` format that Debian uses for indexes, packages and deb822 sources.

/// One paragraph of fields, borrowed from the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stanza<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Stanza<'a> {
    /// The value of a field, continuation lines included, without surrounding white space. Names ignore case.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The words of a field; none if it is missing.
    pub(crate) fn words(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.get(name).unwrap_or_default().split_ascii_whitespace()
    }

    /// Whether a field says `yes`, in any of apt's spellings; `None` if it is missing.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(is_yes)
    }
}

/// Whether a value means no, where one that means neither is a mistake.
pub(crate) fn is_no(value: &str) -> bool {
    ["no", "false", "without", "off", "disable", "0"].iter().any(|no| value.trim().eq_ignore_ascii_case(no))
}

/// Whether a value means yes.
pub(crate) fn is_yes(value: &str) -> bool {
    ["yes", "true", "with", "on", "enable", "1"].iter().any(|yes| value.trim().eq_ignore_ascii_case(yes))
}

/// Splits a text into stanzas. Comment lines are skipped; a line that is neither is ignored, as apt does.
pub(crate) fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let (stanza, after) = next_stanza(rest)?;
            rest = after;
            if !stanza.fields.is_empty() {
                return Some(stanza);
            }
        }
    })
}

fn next_stanza(text: &str) -> Option<(Stanza<'_>, &str)> {
    if text.is_empty() {
        return None;
    }
    let mut stanza = Stanza::default();
    let mut rest = text;
    // Where the value that is being read begins; it ends where the next field does.
    let mut open: Option<(&str, usize)> = None;
    while !rest.is_empty() {
        let start = text.len() - rest.len();
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        rest = after;
        if line.trim().is_empty() {
            push(&mut stanza, text, open.take(), start);
            return Some((stanza, rest));
        }
        if line.starts_with([' ', '\t', '#']) {
            continue;
        }
        push(&mut stanza, text, open.take(), start);
        if let Some((name, value)) = line.split_once(':') {
            open = Some((name.trim(), start + line.len() - value.len()));
        }
    }
    push(&mut stanza, text, open.take(), text.len());
    Some((stanza, rest))
}

fn push<'a>(stanza: &mut Stanza<'a>, text: &'a str, open: Option<(&'a str, usize)>, end: usize) {
    if let Some((name, start)) = open {
        stanza.fields.push((name, text[start..end].trim()));
    }
}

/// The lines of a value without the comments among them and without the dots that stand for empty lines.
pub(crate) fn value_lines(value: &str) -> impl Iterator<Item = &str> {
    value
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| if line.trim() == "." { "" } else { line.strip_prefix(' ').unwrap_or(line) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_comments_and_continuations() {
        let text = "\n# head\nTypes: deb\n# http://elsewhere\nURIs: http://a/debian\n  http://b/debian\nEnabled: No\n\n\nTypes:deb-src\n";
        let all: Vec<_> = stanzas(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].words("uris").collect::<Vec<_>>(), ["http://a/debian", "http://b/debian"]);
        assert_eq!(all[0].flag("Enabled"), Some(false));
        assert_eq!(all[1].get("Types"), Some("deb-src"));
        assert_eq!(all[1].get("URIs"), None);
    }

    #[test]
    fn strange_texts_are_no_trouble() {
        for text in ["", "\n\n", ":", " only a continuation", "no colon\n", "A:\n \n", "\u{0}\u{0}:\r\n"] {
            let _ = stanzas(text).count();
        }
        assert_eq!(value_lines("a\n b\n .\n # x\n#c").collect::<Vec<_>>(), ["a", "b", "", "# x"]);
    }
}
