//! Ignore patterns with the semantics of Docker's ignore files.
//!
//! Patterns are relative to the added directory and anchored at its root; `*` and `?` stop at `/`, `**` spans
//! directories, `[a-z]` is a class, `\` takes the next character as it is. A pattern that matches a directory covers
//! everything below it; `!` takes back; the last match wins. The Python package implements the same rules for
//! `FilePatternMatcher`; both are held to the table `tests/data/patterns.json`.

/// A pattern cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A `!` without anything to take back.
    #[error("the ignore pattern `!` names nothing: write what it takes back after the `!`")]
    LoneExclamation,
    /// A class or an escape is not finished.
    #[error("the ignore pattern `{0}` is not finished: a `[` needs its `]`, a `\\` something after it")]
    Unfinished(String),
}

#[derive(Debug, Clone)]
struct Pattern {
    tokens: Vec<Token>,
    exclusion: bool,
}

#[derive(Debug, Clone)]
enum Token {
    Literal(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// `**`, with whether a slash followed it.
    Any {
        slash: bool,
    },
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Decides which paths below a directory are left out.
#[derive(Debug, Clone)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
}

impl PatternMatcher {
    /// Compiles patterns.
    ///
    /// # Errors
    /// When a pattern is a lone `!` or is not finished.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternError> {
        let patterns = patterns.iter().filter_map(|text| parse(text.as_ref()).transpose()).collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether a directory that matches can be skipped without looking below it: nothing is ever taken back.
    #[must_use]
    pub fn prunes(&self) -> bool {
        !self.patterns.iter().any(|pattern| pattern.exclusion)
    }

    /// Whether `path`, relative to the added directory and with `/` between its parts, is left out. A byte that is no
    /// UTF-8 is one character.
    #[must_use]
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let path = path.as_ref();
        if path.is_empty() || path == b"." {
            return false;
        }
        let invalid = |bytes: &[u8]| bytes.iter().map(|_| char::REPLACEMENT_CHARACTER).collect::<Vec<_>>();
        let characters: Vec<char> =
            path.utf8_chunks().flat_map(|chunk| chunk.valid().chars().chain(invalid(chunk.invalid()))).collect();
        let mut ignored = false;
        for pattern in &self.patterns {
            if pattern.exclusion == ignored && pattern.covers(&characters) {
                ignored = !pattern.exclusion;
            }
        }
        ignored
    }
}

impl Pattern {
    /// Whether the pattern matches the path or one of its parent directories.
    fn covers(&self, path: &[char]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, character)| **character == '/').map(|(index, _)| index);
        ends.chain([path.len()]).any(|end| matches(&self.tokens, &path[..end]))
    }
}

fn parse(text: &str) -> Result<Option<Pattern>, PatternError> {
    let cleaned = clean(text.trim());
    let (exclusion, body) = match cleaned.strip_prefix('!') {
        Some(rest) => (true, rest.trim_start_matches('/')),
        None => (false, cleaned.as_str()),
    };
    if exclusion && body.is_empty() {
        return Err(PatternError::LoneExclamation);
    }
    if body.is_empty() || body == "." {
        return Ok(None);
    }
    let tokens = tokenize(body).ok_or_else(|| PatternError::Unfinished(text.to_owned()))?;
    Ok(Some(Pattern { tokens, exclusion }))
}

/// Removes `.`, resolvable `..`, doubled and trailing slashes.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            other => parts.push(other),
        }
    }
    parts.join("/")
}

fn tokenize(body: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = body.chars().peekable();
    while let Some(character) = rest.next() {
        tokens.push(match character {
            '*' if rest.next_if_eq(&'*').is_some() => {
                while rest.next_if_eq(&'*').is_some() {}
                Token::Any { slash: rest.next_if_eq(&'/').is_some() }
            }
            '*' => Token::Many,
            '?' => Token::One,
            '[' => class(&mut rest)?,
            '\\' => Token::Literal(rest.next()?),
            other => Token::Literal(other),
        });
    }
    Some(tokens)
}

/// The rest of a class, after its `[`.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match rest.next()? {
            ']' if !ranges.is_empty() => return Some(Token::Class { negated, ranges }),
            '\\' => rest.next()?,
            other => other,
        };
        let high = match rest.next_if_eq(&'-') {
            None => low,
            Some(_) => match rest.next()? {
                '\\' => rest.next()?,
                other => other,
            },
        };
        ranges.push((low, high));
    }
}

/// Whether the tokens match the whole path: a table over both, so that no pattern is ever slow.
fn matches(tokens: &[Token], path: &[char]) -> bool {
    // `reached[i]`: the tokens so far match the first `i` characters.
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for (index, token) in tokens.iter().enumerate() {
        reached = advance(token, index + 1 == tokens.len(), &reached, path);
    }
    reached[path.len()]
}

fn advance(token: &Token, last: bool, reached: &[bool], path: &[char]) -> Vec<bool> {
    let mut next = vec![false; reached.len()];
    match token {
        Token::Literal(_) | Token::One | Token::Class { .. } => {
            for (index, character) in path.iter().enumerate() {
                next[index + 1] = reached[index] && accepts(token, *character);
            }
        }
        Token::Many => {
            let mut open = false;
            for index in 0..reached.len() {
                open = reached[index] || (open && path[index - 1] != '/');
                next[index] = open;
            }
        }
        Token::Any { slash } => {
            let mut open = false;
            for index in 0..reached.len() {
                open = open || reached[index];
                // In the middle, `**/` ends at the start of a path part; at the end it takes everything.
                let at_part = !slash || last || reached[index] || (index > 0 && path[index - 1] == '/');
                next[index] = open && at_part;
            }
        }
    }
    next
}

fn accepts(token: &Token, character: char) -> bool {
    match token {
        Token::Literal(literal) => *literal == character,
        Token::One => character != '/',
        Token::Class { negated, ranges } => {
            character != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated
        }
        Token::Many | Token::Any { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_patterns_are_errors() {
        assert_eq!(PatternMatcher::new(&["!"]).unwrap_err(), PatternError::LoneExclamation);
        for bad in ["[a", "a\\", "[", "[]", "[a-", "x/[b/c"] {
            assert_eq!(PatternMatcher::new(&[bad]).unwrap_err(), PatternError::Unfinished(bad.to_owned()));
        }
    }

    #[test]
    fn the_table_shared_with_the_python_package_holds() {
        #[derive(serde::Deserialize)]
        struct Case {
            patterns: Vec<String>,
            path: String,
            ignored: bool,
        }

        let table = include_str!("../../../tests/data/patterns.json");
        let cases: Vec<Case> = serde_json::from_str(table).unwrap();
        for Case { patterns, path, ignored } in cases {
            let found = PatternMatcher::new(&patterns).unwrap().matches(&path);
            assert_eq!(found, ignored, "{patterns:?} {path:?}");
        }
    }

    #[test]
    fn only_matchers_that_take_nothing_back_prune() {
        assert!(PatternMatcher::new(&["*.pyc"]).unwrap().prunes());
        assert!(!PatternMatcher::new(&["*", "!*.py"]).unwrap().prunes());
    }

    #[test]
    fn the_basic_rules_hold() {
        for (patterns, path, ignored) in [
            (&["node_modules"][..], "node_modules/a/b", true),
            (&["node_modules"], "a/node_modules", false),
            (&["**/node_modules"], "a/b/node_modules/c", true),
            (&["*.py"], "a/b.py", false),
            (&["**/*.py"], "b.py", true),
            (&["a/**"], "a", false),
            (&["a/**"], "a/b/c", true),
            (&["*", "!a/b"], "a/b", false),
            (&["*", "!a/b", "a/b"], "a/b", true),
            (&["[a-c]?.txt"], "bz.txt", true),
            (&["[^a-c]z"], "bz", false),
            (&["**"], "x/y", true),
        ] {
            assert_eq!(PatternMatcher::new(patterns).unwrap().matches(path), ignored, "{patterns:?} {path}");
        }
    }
}
