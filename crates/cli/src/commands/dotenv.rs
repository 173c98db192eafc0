//! Dotenv files, read as `python-dotenv` reads them.

use std::collections::BTreeMap;

use crate::failure::Failure;

/// The variables of a dotenv file; those without a value are left out. `${NAME}` and `${NAME:-default}` in a value stand for
/// earlier variables of the file, or else for what `environment` gives.
pub(crate) fn parse(
    text: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut variables = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(variables);
        }
        let Some((binding, after)) = binding(rest) else {
            let line = text[..text.len() - rest.len()].lines().count().max(1);
            let line = if text[..text.len() - rest.len()].ends_with('\n') { line + 1 } else { line };
            return Err(Failure::new(format!("line {line} of the dotenv file is not understood"))
                .hint("write `NAME=value`, and quotes around a value with quotes or line ends in it"));
        };
        if let Some((name, Some(value))) = binding {
            let value = expand(&value, |name| variables.get(name).cloned().or_else(|| environment(name)));
            variables.insert(name, value);
        }
        rest = after;
    }
}

/// A variable, with its value if it has one; nothing for a comment. And what follows it.
type Binding<'a> = (Option<(String, Option<String>)>, &'a str);

/// The next line, or several if a quoted value has them.
fn binding(text: &str) -> Option<Binding<'_>> {
    if text.starts_with('#') {
        return Some((None, text.split_once(['\n', '\r']).map_or("", |(_, rest)| rest)));
    }
    let text = match text.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => blanks(rest),
        _ => text,
    };
    let (name, rest) = name(text)?;
    let rest = blanks(rest);
    let Some(rest) = rest.strip_prefix('=') else {
        return Some((Some((name, None)), end_of_line(rest)?));
    };
    let (value, rest) = value(blanks(rest))?;
    Some((Some((name, Some(value))), end_of_line(rest)?))
}

fn name(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('\'') {
        let (name, rest) = quoted.split_once('\'').filter(|(name, _)| !name.is_empty())?;
        return Some((name.to_owned(), rest));
    }
    let end = text.find(|letter: char| letter == '=' || letter == '#' || letter.is_whitespace()).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

fn value(text: &str) -> Option<(String, &str)> {
    if let Some(quote @ ('\'' | '"')) = text.chars().next() {
        return quoted(&text[1..], quote);
    }
    let end = text.find(['\n', '\r']).unwrap_or(text.len());
    let line = &text[..end];
    // A comment begins with `#` behind a blank.
    let blanks = line.char_indices().filter(|(_, letter)| letter.is_whitespace());
    let comment = blanks.map(|(index, _)| index).find(|index| line[*index..].trim_start().starts_with('#'));
    Some((comment.map_or(line, |start| &line[..start]).trim_end().to_owned(), &text[end..]))
}

/// A value up to its closing quote.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        if letter == quote {
            return Some((value, &text[index + 1..]));
        }
        if letter != '\\' {
            value.push(letter);
            continue;
        }
        let (_, escaped) = letters.next()?;
        match (quote, escaped) {
            (_, '\\' | '\'') | ('"', '"') => value.push(escaped),
            ('"', 'n') => value.push('\n'),
            ('"', 'r') => value.push('\r'),
            ('"', 't') => value.push('\t'),
            ('"', 'a') => value.push('\u{7}'),
            ('"', 'b') => value.push('\u{8}'),
            ('"', 'f') => value.push('\u{c}'),
            ('"', 'v') => value.push('\u{b}'),
            _ => value.extend(['\\', escaped]),
        }
    }
    None
}

fn blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// What follows the line, on which there is nothing more than a comment.
fn end_of_line(text: &str) -> Option<&str> {
    let rest = blanks(text);
    match rest.chars().next() {
        None => Some(""),
        Some('\n' | '\r') => Some(rest),
        Some('#') => Some(rest.find(['\n', '\r']).map_or("", |end| &rest[end..])),
        Some(_) => None,
    }
}

/// The value, with what stands for other variables replaced.
fn expand(value: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::new();
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        let Some(end) = rest[start..].find('}').map(|end| start + end) else { break };
        let (name, default) = match rest[start + 2..end].split_once(':') {
            None => (&rest[start + 2..end], ""),
            Some((name, default)) if default.starts_with('-') => (name, &default[1..]),
            // That is no variable.
            Some(_) => {
                expanded.push_str(&rest[..start + 2]);
                rest = &rest[start + 2..];
                continue;
            }
        };
        expanded.push_str(&rest[..start]);
        expanded.push_str(&variable(name).unwrap_or_else(|| default.to_owned()));
        rest = &rest[end + 1..];
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let mut variables = parse(text, |name| (name == "HOME").then(|| "/home/ada".to_owned())).unwrap();
        variables.remove("A").unwrap_or_else(|| panic!("{text}: {variables:?}"))
    }

    #[test]
    fn values_are_read_as_python_dotenv_reads_them() {
        for (text, value) in [
            ("A=b", "b"),
            ("A = b c  ", "b c"),
            ("export A=b", "b"),
            ("  'A'=b", "b"),
            ("A=", ""),
            ("A=b # comment", "b"),
            ("A=b#c", "b#c"),
            ("A='b # c' # d", "b # c"),
            (r"A='it\'s \n'", r"it's \n"),
            (r#"A="say \"b\"\n\t""#, "say \"b\"\n\t"),
            ("A=\"one\ntwo\"", "one\ntwo"),
            ("# comment\r\n\r\nA=b\r\n", "b"),
            ("B=1\nA=x${B}${HOME}${C:-d}${E}y", "x1/home/adady"),
            ("A='${HOME}'", "/home/ada"),
            ("A=$HOME${", "$HOME${"),
            ("A=1\nA=2", "2"),
        ] {
            assert_eq!(one(text), value, "{text}");
        }
        assert!(parse("A\nB\n#c", |_| None).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_understood_names_its_line_and_not_its_text() {
        for text in ["A=1\n\nB='hunter2\n", "A=1\n\nhunter2 B=2", "A=1\n\nB=\"x\" hunter2"] {
            let failure = format!("{:?}", parse(text, |_| None).unwrap_err());
            assert!(failure.contains("line 3 ") && !failure.contains("hunter2"), "{failure}");
        }
    }
}
