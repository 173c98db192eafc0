//! Words with quotes, escapes and variables, as `BuildKit` expands them.

use std::collections::BTreeMap;

/// What words are expanded with.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    /// The values of variables.
    pub variables: &'a BTreeMap<String, String>,
    /// The character that takes the next one as it is.
    pub escape: char,
}

/// Most substitutions that stand in one another.
const MOST_LEVELS: usize = 100;

/// A word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// A quote or a brace is missing.
    #[error("`{word}` is not finished: a `{missing}` is missing")]
    Unfinished {
        /// The word.
        word: String,
        /// What is missing.
        missing: char,
    },
    /// A substitution of a kind that there is not.
    #[error(
        "`{0}` is no substitution: there are `${{A}}`, `${{A:-b}}`, `${{A:+b}}`, `${{A:?b}}`, `${{A#b}}`, `${{A%b}}` and `${{A/b/c}}`"
    )]
    Substitution(String),
    /// Substitutions that stand in one another.
    #[error("more than {MOST_LEVELS} substitutions stand in one another: give parts of the word names with `ARG`")]
    TooDeep,
    /// A variable that has to be set.
    #[error("`{name}` is not set: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the Dockerfile says about it.
        message: String,
    },
}

impl Words<'_> {
    /// The word that is meant: quotes and escapes are taken away, and variables replaced.
    ///
    /// # Errors
    /// When the word is not finished, or demands a variable that is not set.
    pub fn expand(&self, word: &str) -> Result<String, WordError> {
        let mut expander =
            Expander { words: *self, word, rest: word.chars().collect(), at: 0, level: 0, keeps_escapes: false };
        expander.until(None)
    }

    /// As [`Self::expand`], of text in which quotes are nothing special: a here-document. An escape takes the next character
    /// as it is there, too, the end of a line included.
    ///
    /// # Errors
    /// As [`Self::expand`].
    pub fn expand_text(&self, text: &str) -> Result<String, WordError> {
        let mut expander =
            Expander { words: *self, word: text, rest: text.chars().collect(), at: 0, level: 0, keeps_escapes: false };
        let mut expanded = String::new();
        while let Some(character) = expander.next() {
            match character {
                '$' => expanded.push_str(&expander.variable()?),
                escape if escape == self.escape => expanded.extend(expander.next()),
                other => expanded.push(other),
            }
        }
        Ok(expanded)
    }

    /// As [`Self::expand`], for words that white space within values takes apart.
    ///
    /// # Errors
    /// As [`Self::expand`].
    pub fn expand_all(&self, word: &str) -> Result<Vec<String>, WordError> {
        Ok(self.expand(word)?.split_whitespace().map(str::to_owned).collect())
    }
}

struct Expander<'a> {
    words: Words<'a>,
    word: &'a str,
    rest: Vec<char>,
    at: usize,
    /// How many substitutions are around.
    level: usize,
    /// Whether escapes stay, for a pattern to read.
    keeps_escapes: bool,
}

impl Expander<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn unfinished(&self, missing: char) -> WordError {
        WordError::Unfinished { word: self.word.to_owned(), missing }
    }

    /// Expands up to one of these characters, which is taken as well, or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<String, WordError> {
        let mut expanded = String::new();
        while let Some(character) = self.next() {
            match character {
                _ if Some(character) == stop => return Ok(expanded),
                '\'' => loop {
                    match self.next().ok_or_else(|| self.unfinished('\''))? {
                        '\'' => break,
                        inner => expanded.push(inner),
                    }
                },
                '"' => self.double_quoted(&mut expanded)?,
                '$' => expanded.push_str(&self.variable()?),
                escape if escape == self.words.escape => {
                    expanded.extend(Some(escape).filter(|_| self.keeps_escapes));
                    expanded.extend(self.next());
                }
                other => expanded.push(other),
            }
        }
        stop.map_or(Ok(expanded), |stop| Err(self.unfinished(stop)))
    }

    /// As [`Self::until`], of a pattern, in which escapes say what stands for itself.
    fn pattern_until(&mut self, stop: char) -> Result<String, WordError> {
        let before = std::mem::replace(&mut self.keeps_escapes, true);
        let pattern = self.until(Some(stop));
        self.keeps_escapes = before;
        pattern
    }

    fn double_quoted(&mut self, expanded: &mut String) -> Result<(), WordError> {
        loop {
            match self.next().ok_or_else(|| self.unfinished('"'))? {
                '"' => return Ok(()),
                '$' => expanded.push_str(&self.variable()?),
                escape if escape == self.words.escape => match self.next() {
                    Some(special) if special == '"' || special == '$' || special == escape => {
                        expanded.extend(Some(escape).filter(|_| self.keeps_escapes));
                        expanded.push(special);
                    }
                    Some(other) => expanded.extend([escape, other]),
                    None => return Err(self.unfinished('"')),
                },
                other => expanded.push(other),
            }
        }
    }

    /// What stands for a variable; the `$` is taken already.
    fn variable(&mut self) -> Result<String, WordError> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.value(&name).unwrap_or_default() });
        }
        self.at += 1;
        self.level += 1;
        if self.level > MOST_LEVELS {
            return Err(WordError::TooDeep);
        }
        let substituted = self.substitution()?;
        self.level -= 1;
        Ok(substituted)
    }

    /// What stands for `${`…`}`; the brace is taken already.
    fn substitution(&mut self) -> Result<String, WordError> {
        let name = self.name();
        let value = self.value(&name);
        if name.is_empty() {
            return Err(WordError::Substitution(self.word.to_owned()));
        }
        let mut operator = self.next().ok_or_else(|| self.unfinished('}'))?;
        let counts_empty = operator == ':';
        if counts_empty {
            operator = self.next().ok_or_else(|| self.unfinished('}'))?;
        }
        let present = value.as_ref().filter(|value| !counts_empty || !value.is_empty()).cloned();
        match operator {
            '}' if !counts_empty => Ok(value.unwrap_or_default()),
            '-' => Ok(present.unwrap_or(self.until(Some('}'))?)),
            '+' => {
                let other = self.until(Some('}'))?;
                Ok(present.map(|_| other).unwrap_or_default())
            }
            '?' => {
                let message = self.until(Some('}'))?;
                let usual = || "give it with `build_args` or a default".to_owned();
                let message = Some(message).filter(|message| !message.is_empty()).unwrap_or_else(usual);
                present.ok_or(WordError::Required { name, message })
            }
            '#' | '%' if !counts_empty => {
                let greedy = self.peek() == Some(operator);
                self.at += usize::from(greedy);
                let pattern = self.pattern_until('}')?;
                Ok(trimmed(&value.unwrap_or_default(), &pattern, operator == '#', greedy))
            }
            '/' if !counts_empty => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let pattern = self.pattern_until('/')?;
                let replacement = self.pattern_until('}')?;
                Ok(replaced(&value.unwrap_or_default(), &pattern, &replacement, all))
            }
            _ => Err(WordError::Substitution(self.word.to_owned())),
        }
    }

    fn name(&mut self) -> String {
        let start = self.at;
        if self.peek().is_some_and(|first| first.is_ascii_digit() || "@*#?-!".contains(first)) {
            self.at += 1;
        } else {
            while self.peek().is_some_and(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
                self.at += 1;
            }
        }
        self.rest[start..self.at].iter().collect()
    }

    fn value(&self, name: &str) -> Option<String> {
        self.words.variables.get(name).cloned()
    }
}

/// Whether `*`, `?` and other characters of a pattern make up the text.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last `*`, and where the text goes on that it does not stand for.
    let mut last = None;
    loop {
        let width = match (&pattern[at..], text.get(seen)) {
            ([], None) => return true,
            (['*', ..], _) => {
                at += 1;
                last = Some((at, seen));
                continue;
            }
            (_, None) => return false,
            (['?', ..], Some(_)) => 1,
            (['\\', letter, ..], Some(found)) if letter == found => 2,
            ([letter, rest @ ..], Some(found)) if letter == found && (*letter != '\\' || rest.is_empty()) => 1,
            _ => 0,
        };
        if width > 0 {
            at += width;
            seen += 1;
        } else if let Some((behind, from)) = last {
            (at, seen) = (behind, from + 1);
            last = Some((behind, seen));
        } else {
            return false;
        }
    }
}

/// A value without what a pattern matches at its beginning or end.
fn trimmed(value: &str, pattern: &str, at_start: bool, greedy: bool) -> String {
    let (value, pattern): (Vec<char>, Vec<char>) = (value.chars().collect(), pattern.chars().collect());
    let cut = |length: usize| {
        if at_start {
            (&value[..length], &value[length..])
        } else {
            let (rest, end) = value.split_at(value.len() - length);
            (end, rest)
        }
    };
    let mut lengths: Vec<usize> = (0..=value.len()).collect();
    if greedy {
        lengths.reverse();
    }
    let found = lengths.into_iter().map(cut).find(|(part, _)| matches(&pattern, part));
    found.map_or(&value[..], |(_, rest)| rest).iter().collect()
}

/// A value in which what a pattern matches is replaced: the longest match at each place.
fn replaced(value: &str, pattern: &str, replacement: &str, all: bool) -> String {
    let (value, pattern): (Vec<char>, Vec<char>) = (value.chars().collect(), pattern.chars().collect());
    let (mut result, mut at, mut done) = (String::new(), 0, false);
    while at < value.len() {
        let end = (at + 1..=value.len()).rev().find(|end| !done && matches(&pattern, &value[at..*end]));
        if let Some(end) = end {
            result.push_str(replacement);
            at = end;
            done = !all;
        } else {
            result.push(value[at]);
            at += 1;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(word: &str) -> Result<String, WordError> {
        let variables = [("A", "one two"), ("EMPTY", ""), ("FILE", "a/b.tar.gz"), ("B", "x"), ("STARS", "*a*b?")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Words { variables: &variables, escape: '\\' }.expand(word)
    }

    #[test]
    fn words_are_expanded_as_buildkit_does() {
        for (word, expanded) in [
            ("plain", "plain"),
            ("$A-$B_", "one two-"),
            ("${A}b$", "one twob$"),
            ("'$A'\"$A\"", "$Aone two"),
            (r"\$A\a", "$Aa"),
            (r#""\$A\a\"\\""#, r#"$A\a"\"#),
            (r"'\'", r"\"),
            ("${NO:-d$B}${NO-d}${EMPTY:-d}[${EMPTY-d}]", "dxdd[]"),
            ("${A:+y}${EMPTY:+y}[${EMPTY+y}]${NO+y}", "y[y]"),
            ("${NO:-${NO:-deep}}", "deep"),
            ("${NO:-'}'}", "}"),
            ("${A:?m}", "one two"),
            ("${FILE#*/}${FILE%.*} ${FILE%%.*} ${FILE##*/}", "b.tar.gza/b.tar a/b b.tar.gz"),
            ("${FILE/a/c} ${FILE//a/c} ${FILE//.*/}", "c/b.tar.gz c/b.tcr.gz a/b"),
            ("$1${NO}", ""),
            (r"${STARS#\*}|${STARS##*}|${STARS/\*/x}|${STARS//\*/-}|${STARS%\?}", "a*b?||xa*b?|-a-b?|*a*b"),
            (r#""${STARS//\*/\$-}${STARS#"\*"}""#, r"\$-a\$-b?a*b?"),
        ] {
            assert_eq!(expand(word).as_deref(), Ok(expanded), "{word}");
        }
    }

    #[test]
    fn here_documents_keep_quotes_and_lose_escapes() {
        let variables = [("A".to_owned(), "one".to_owned())].into();
        let words = Words { variables: &variables, escape: '\\' };
        for (text, expanded) in
            [("\"$A\" '${A}' it's\n", "\"one\" 'one' it's\n"), (r"\$A \\ \n", r"$A \ n"), ("a\\\nb\n", "a\nb\n")]
        {
            assert_eq!(words.expand_text(text).as_deref(), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, is_match) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("a?c", "abc", true),
            ("?", "", false),
            (r"\*", "*", true),
            (r"\*", "a", false),
            (r"a\", r"a\", true),
            ("*a*b?", "xaxbxby", true),
            ("ab", "abc", false),
        ] {
            let [pattern, text] = [pattern, text].map(|text| text.chars().collect::<Vec<_>>());
            assert_eq!(matches(&pattern, &text), is_match, "{pattern:?} {text:?}");
        }
        let hard: Vec<char> = "*a".repeat(40).chars().chain(['b']).collect();
        assert!(!matches(&hard, &['a'; 200]));
    }

    #[test]
    fn what_cannot_be_expanded_is_named() {
        let required = |message: &str| WordError::Required { name: "NO".to_owned(), message: message.to_owned() };
        assert_eq!(expand("${NO:?set it}"), Err(required("set it")));
        assert_eq!(expand("${NO?}").unwrap_err(), required("give it with `build_args` or a default"));
        for (word, missing) in [("'a", '\''), ("\"a", '"'), ("${A", '}'), ("${A:-b", '}'), ("${A/b", '/')] {
            assert_eq!(expand(word), Err(WordError::Unfinished { word: word.to_owned(), missing }));
        }
        let nested = |levels: usize| format!("{}{}", "${NO:-".repeat(levels), "}".repeat(levels));
        assert_eq!(expand(&nested(MOST_LEVELS)).as_deref(), Ok(""));
        assert_eq!(expand(&nested(100_000)), Err(WordError::TooDeep));
        for word in ["${}", "${A!}", "${A:}", "${A:#b}"] {
            assert_eq!(expand(word), Err(WordError::Substitution(word.to_owned())));
        }
    }
}
