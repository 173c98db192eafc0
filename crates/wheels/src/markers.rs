//! Environment markers in a lock (PEP 508), as far as they can be told of an image without running its interpreter.

use std::cmp::Ordering;

use crate::request::Target;

/// Whether a marker holds on `target`; `None` where only the installer can say.
pub(crate) fn holds(marker: &str, target: &Target) -> Option<bool> {
    let mut reader = Reader { words: words(marker)?, position: 0, target };
    let answer = reader.alternatives()?;
    (reader.position == reader.words.len()).then_some(answer)
}

/// Whether a Python of this version is in a range like `>=3.11, <4`; `None` where only the installer can say.
#[must_use]
pub fn version_is_in(version: &str, range: &str) -> Option<bool> {
    let mut parts = range.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.try_fold(true, |all, part| {
        let end = part.find(|character: char| !"<>=!~".contains(character))?;
        Some(compare(version, &part[..end], part[end..].trim())? && all)
    })
}

/// A piece of a marker.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// A name, `and`, `or`, `in`, `not`, an operator or a parenthesis.
    Plain(String),
    /// A string, without its quotes.
    Text(String),
}

fn words(marker: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = marker.trim_start();
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\'' | '"' => {
                let end = rest[1..].find(first)?;
                words.push(Word::Text(rest[1..=end].to_owned()));
                end + 2
            }
            '(' | ')' => {
                words.push(Word::Plain(first.to_string()));
                1
            }
            _ => {
                let is_operator = |character: char| "<>=!~".contains(character);
                let kind = |character: char| match character {
                    _ if is_operator(character) => 1,
                    _ if character.is_ascii_alphanumeric() || character == '_' || character == '.' => 2,
                    _ => 0,
                };
                let end = rest.find(|character| kind(character) != kind(first)).unwrap_or(rest.len());
                if kind(first) == 0 {
                    return None;
                }
                words.push(Word::Plain(rest[..end].to_owned()));
                end
            }
        };
        rest = rest[taken..].trim_start();
    }
    Some(words)
}

/// Reads a marker from left to right.
struct Reader<'a> {
    words: Vec<Word>,
    position: usize,
    target: &'a Target,
}

/// One side of a comparison.
enum Side {
    /// A variable that says a version, with its value.
    Version(String),
    /// Another variable, with its value.
    Variable(String),
    /// What is written in the marker.
    Text(String),
}

impl Reader<'_> {
    /// Takes the next word if it is this one.
    fn takes(&mut self, word: &str) -> bool {
        let found = matches!(self.words.get(self.position), Some(Word::Plain(plain)) if plain == word);
        self.position += usize::from(found);
        found
    }

    fn alternatives(&mut self) -> Option<bool> {
        let mut any = self.conditions()?;
        while self.takes("or") {
            any |= self.conditions()?;
        }
        Some(any)
    }

    fn conditions(&mut self) -> Option<bool> {
        let mut all = self.condition()?;
        while self.takes("and") {
            all &= self.condition()?;
        }
        Some(all)
    }

    fn condition(&mut self) -> Option<bool> {
        if self.takes("(") {
            let inner = self.alternatives()?;
            return self.takes(")").then_some(inner);
        }
        let left = self.side()?;
        let negated = self.takes("not");
        if self.takes("in") {
            return match (left, self.side()?) {
                (Side::Text(part), Side::Variable(whole)) | (Side::Variable(part), Side::Text(whole)) => {
                    Some(whole.contains(&part) != negated)
                }
                _ => None,
            };
        }
        let Some(Word::Plain(operator)) = self.words.get(self.position).filter(|_| !negated).cloned() else {
            return None;
        };
        self.position += 1;
        match (left, self.side()?) {
            (Side::Version(own), Side::Text(other)) => compare(&own, &operator, &other),
            (Side::Text(other), Side::Version(own)) => compare(&own, flipped(&operator)?, &other),
            (Side::Variable(one), Side::Text(other)) | (Side::Text(one), Side::Variable(other)) => {
                match operator.as_str() {
                    "==" => Some(one == other),
                    "!=" => Some(one != other),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn side(&mut self) -> Option<Side> {
        let word = self.words.get(self.position)?.clone();
        self.position += 1;
        let name = match word {
            Word::Text(text) => return Some(Side::Text(text)),
            Word::Plain(name) => name,
        };
        let (major, minor) = self.target.python_minor()?;
        let value = match name.as_str() {
            "python_version" => return Some(Side::Version(format!("{major}.{minor}"))),
            "python_full_version" | "implementation_version" => {
                let is_full = self.target.python.split('.').count() == 3;
                return is_full.then(|| Side::Version(self.target.python.clone()));
            }
            "os_name" => "posix",
            "sys_platform" => "linux",
            "platform_system" => "Linux",
            "platform_python_implementation" => "CPython",
            "implementation_name" => "cpython",
            "platform_machine" => &self.target.machine,
            _ => return None,
        };
        Some(Side::Variable(value.to_owned()))
    }
}

/// The operator with its sides exchanged.
fn flipped(operator: &str) -> Option<&'static str> {
    Some(match operator {
        "<" => ">",
        "<=" => ">=",
        ">" => "<",
        ">=" => "<=",
        "==" => "==",
        "!=" => "!=",
        _ => return None,
    })
}

/// Compares two versions that are numbers with dots; others, which have an order of their own, are not understood.
fn compare(own: &str, operator: &str, other: &str) -> Option<bool> {
    let own = numbers(own)?;
    if let Some(prefix) = other.strip_suffix(".*") {
        let prefix = numbers(prefix)?;
        let starts = (0..prefix.len()).all(|part| own.get(part).copied().unwrap_or(0) == prefix[part]);
        return match operator {
            "==" => Some(starts),
            "!=" => Some(!starts),
            _ => None,
        };
    }
    let other = numbers(other)?;
    let length = own.len().max(other.len());
    let part = |version: &[u64], index: usize| version.get(index).copied().unwrap_or(0);
    let ordering = (0..length).map(|index| part(&own, index).cmp(&part(&other, index))).find(|one| one.is_ne());
    let ordering = ordering.unwrap_or(Ordering::Equal);
    Some(match operator {
        "<" => ordering.is_lt(),
        "<=" => ordering.is_le(),
        ">" => ordering.is_gt(),
        ">=" => ordering.is_ge(),
        "==" => ordering.is_eq(),
        "!=" => ordering.is_ne(),
        "~=" if other.len() > 1 => {
            ordering.is_ge() && (0..other.len() - 1).all(|index| part(&own, index) == other[index])
        }
        _ => return None,
    })
}

fn numbers(version: &str) -> Option<Vec<u64>> {
    version.split('.').map(|part| part.parse().ok().filter(|_| !part.starts_with('+'))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::target;

    fn on(marker: &str) -> Option<bool> {
        holds(marker, &Target { python: "3.11.2".to_owned(), ..target() })
    }

    #[test]
    fn markers_hold_or_not() {
        for marker in [
            "sys_platform == 'linux'",
            "python_full_version < '3.13' and sys_platform != 'win32'",
            "python_version >= \"3.9\"",
            "'3.9' <= python_version",
            "python_full_version >= '3.11.2' and python_full_version <= '3.11.2'",
            "python_version == '3.11.*' and python_version != '3.1.*'",
            "python_version ~= '3.9'",
            "sys_platform == 'win32' or (os_name == 'posix' and implementation_name == 'cpython')",
            "sys_platform == 'win32' and os_name == 'nt' or platform_machine == 'x86_64'",
            "'nux' in sys_platform and platform_machine not in 'arm64 aarch64'",
            "platform_system in 'Linux Darwin'",
        ] {
            assert_eq!(on(marker), Some(true), "{marker}");
        }
        for marker in [
            "python_version < '3.11'",
            "python_full_version < '3.11'",
            "python_full_version < '3.11.2'",
            "python_version ~= '3.12'",
            "(sys_platform == 'win32' or sys_platform == 'darwin') and os_name == 'posix'",
            "platform_python_implementation == 'PyPy'",
            "sys_platform not in 'linux'",
        ] {
            assert_eq!(on(marker), Some(false), "{marker}");
        }
    }

    #[test]
    fn what_is_not_known_is_for_the_installer() {
        for marker in [
            "platform_release >= '6'",
            "extra == 'x'",
            "'x' in extras",
            "python_full_version < '3.12.0rc1'",
            "python_version in '3.10 3.11'",
            "sys_platform > 'linux'",
            "sys_platform == 'linux' and",
            "(sys_platform == 'linux'",
            "sys_platform == 'linux' 'x'",
            "sys_platform = = 'linux'",
            "sys_platform == 'linux",
            "",
        ] {
            assert_eq!(on(marker), None, "{marker}");
        }
        assert_eq!(holds("python_full_version < '3.11.4'", &target()), None, "its version has two parts only");
    }

    #[test]
    fn versions_are_in_ranges() {
        for (range, answer) in [
            (">=3.11", Some(true)),
            (" >= 3.11 , <4", Some(true)),
            (">=3.12", Some(false)),
            ("==3.11.*", Some(true)),
            ("==3.11", Some(false)),
            ("", Some(true)),
            (">=3.12a1", None),
            ("3.11", None),
        ] {
            assert_eq!(version_is_in("3.11.2", range), answer, "{range}");
        }
    }
}
