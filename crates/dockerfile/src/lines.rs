//! Lines of a Dockerfile: parser directives, comments, continuations and here-documents.

use crate::ParseError;
use crate::instruction::Document;

/// What the lines make up.
pub(crate) struct Lines {
    pub(crate) escape: char,
    pub(crate) instructions: Vec<Line>,
}

/// The lines of one instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The number of the first one, from 1.
    pub(crate) number: usize,
    /// All of them as one, continuations and comments taken out.
    pub(crate) text: String,
    pub(crate) documents: Vec<Document>,
}

impl Line {
    pub(crate) fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError { line: self.number, text: self.text.clone(), message: message.into() }
    }
}

/// Instructions that here-documents may follow.
const WITH_DOCUMENTS: [&str; 3] = ["add", "copy", "run"];

/// Takes a text apart into instructions.
pub(crate) fn split(text: &str) -> Result<Lines, ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    let escape = directives(text)?;
    if let Some((index, line)) = text.lines().enumerate().find(|(_, line)| line.contains('\0')) {
        let message = "there is a NUL character in it: save the file as UTF-8 text".to_owned();
        return Err(ParseError { line: index + 1, text: line.replace('\0', "\u{fffd}"), message });
    }
    let mut instructions = Vec::new();
    while let Some((index, first)) = lines.next() {
        let first = without_end(first).trim_start();
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (part, mut continues) = continuation(first, escape);
        let mut line = Line { number: index + 1, text: part.to_owned(), documents: Vec::new() };
        while continues && let Some((_, next)) = lines.next() {
            let next = without_end(next);
            let trimmed = next.trim_start();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let (part, more) = continuation(next, escape);
            line.text.push_str(part);
            continues = more;
        }
        let word = line.text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        if WITH_DOCUMENTS.contains(&&*word) {
            for mut document in openings(&line.text, escape) {
                loop {
                    let Some((_, next)) = lines.next() else {
                        let name = document.name;
                        return Err(line.error(format!(
                            "the here-document does not end: write a line that is `{name}` alone after it"
                        )));
                    };
                    let bare = if document.chomp { next.trim_start_matches('\t') } else { next };
                    if without_end(bare) == document.name {
                        break;
                    }
                    document.content.push_str(bare);
                }
                line.documents.push(document);
            }
        }
        line.text.truncate(line.text.trim_end().len());
        instructions.push(line);
    }
    Ok(Lines { escape, instructions })
}

fn without_end(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// The escape character that the directives at the top choose. `syntax` and `check` name programs and rules of others.
fn directives(text: &str) -> Result<char, ParseError> {
    let mut escape = None;
    for (index, line) in text.lines().enumerate() {
        let Some((name, value)) = line.trim().strip_prefix('#').and_then(|line| line.split_once('=')) else { break };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        let wrong = |message: String| ParseError { line: index + 1, text: line.to_owned(), message };
        match (&*name, value) {
            ("escape", "\\" | "`") if escape.is_none() => escape = value.chars().next(),
            ("escape", "\\" | "`") => return Err(wrong("`escape` is given twice: remove one of them".to_owned())),
            ("escape", _) => {
                return Err(wrong(format!(
                    "`escape={value}` is neither `escape=\\` nor ``escape=` ``: use one of them"
                )));
            }
            ("syntax" | "check", _) => {}
            // Anything else is a comment, after which there are no directives.
            _ => break,
        }
    }
    Ok(escape.unwrap_or('\\'))
}

/// A line without the character that continues it, and whether there was one.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// The here-documents that a line begins, still without their lines.
fn openings(text: &str, escape: char) -> Vec<Document> {
    let mut found = Vec::new();
    for word in shell_words(text, escape) {
        let Some(rest) = word.trim_start_matches(|digit: char| digit.is_ascii_digit()).strip_prefix("<<") else {
            continue;
        };
        let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
        if rest.contains('<') {
            continue;
        }
        let name: String = rest.chars().filter(|character| !['"', '\'', escape].contains(character)).collect();
        if !name.is_empty() {
            let expand = name.len() == rest.len();
            found.push(Document { name, content: String::new(), expand, chomp });
        }
    }
    found
}

/// The words of a line, quotes and all; what is quoted holds together.
fn shell_words(text: &str, escape: char) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match quote {
            None if character.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => {
                word.push(character);
                if character == escape && quote != Some('\'') {
                    word.extend(characters.next());
                } else if quote == Some(character) {
                    quote = None;
                } else if quote.is_none() && (character == '"' || character == '\'') {
                    quote = Some(character);
                }
            }
        }
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(usize, String)> {
        split(text).unwrap().instructions.into_iter().map(|line| (line.number, line.text)).collect()
    }

    #[test]
    fn lines_are_continued_over_comments_and_empty_ones() {
        let text = "# a comment\n\n  RUN one && \\\n  # inside\n\n  two \\  \n\tthree\nRUN four \\\\\nRUN last \\";
        let expected = [(3, "RUN one &&   two \tthree"), (8, "RUN four \\\\"), (9, "RUN last")];
        assert_eq!(texts(text), expected.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(texts("# escape=`\r\nRUN a `\r\n b\\\r\nRUN c\r\n").len(), 2);
        assert_eq!(texts("#syntax = docker/dockerfile:1\n# escape=`\nRUN a `\n b").len(), 1);
        assert_eq!(texts("# note\n# escape=`\nRUN a `\nRUN b").len(), 2, "no directive behind a comment");
        assert!(split("# escape=x\n").is_err());
    }

    #[test]
    fn here_documents_belong_to_the_line_that_begins_them() {
        let text =
            "RUN <<EOF cat && cat 3<<-'X Y' <<<no\na\n\\\nEOF\n\t\tb\n\tX Y\nENV A=<<B\nCOPY <<a <<\"b\" /\n1\na\nb\n";
        let lines = split(text).unwrap().instructions;
        assert_eq!(lines.len(), 3, "{lines:?}");
        let document = |name: &str, content: &str, expand, chomp| Document {
            name: name.to_owned(),
            content: content.to_owned(),
            expand,
            chomp,
        };
        assert_eq!(lines[0].documents, [document("EOF", "a\n\\\n", true, false), document("X Y", "b\n", false, true)]);
        assert_eq!(lines[2].documents, [document("a", "1\n", true, false), document("b", "", false, false)]);
        assert_eq!(split("FROM scratch\nENV A=\0\n").map(|_| ()).unwrap_err().line, 2);
        let error = split("FROM scratch\nRUN <<EOF\nx\n").map(|_| ()).unwrap_err();
        assert_eq!((error.line, &*error.text), (2, "RUN <<EOF"));
    }
}
