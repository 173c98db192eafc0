//! Instructions from lines.

use crate::ParseError;
use crate::instruction::{Argument, Command, Health, Instruction, Kind, Options, Transfer};
use crate::lines::Line;
use crate::options::duration;

/// The instruction on a line.
pub(crate) fn instruction(line: &Line, escape: char) -> Result<Instruction, ParseError> {
    let (word, rest) = line.text.split_once(char::is_whitespace).unwrap_or((&line.text, ""));
    let name = word.to_ascii_uppercase();
    let (flags, arguments) = flags(rest.trim_start(), escape);
    let reader = Reader { line, name: &name, flags, arguments, escape };
    let kind = reader.kind()?;
    Ok(Instruction { line: line.number, text: line.text.split_whitespace().collect::<Vec<_>>().join(" "), kind })
}

/// The flags that a line begins with, without their dashes, and the rest.
fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let (mut flags, mut rest) = (Vec::new(), text);
    while let Some(after) = rest.strip_prefix("--") {
        let (mut flag, mut quote, mut end) = (String::new(), None, after.len());
        let mut characters = after.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                _ if quote.is_none() && character.is_whitespace() => {
                    end = at;
                    break;
                }
                _ if character == escape && quote != Some('\'') => flag.extend(characters.next().map(|(_, next)| next)),
                '"' | '\'' if quote == Some(character) => quote = None,
                '"' | '\'' if quote.is_none() => quote = Some(character),
                _ => flag.push(character),
            }
        }
        rest = after[end..].trim_start();
        if flag.is_empty() {
            // `--` alone ends the flags.
            break;
        }
        flags.push(flag);
    }
    (flags, rest)
}

struct Reader<'a> {
    line: &'a Line,
    name: &'a str,
    flags: Vec<String>,
    arguments: &'a str,
    escape: char,
}

impl Reader<'_> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(self.line.error(message))
    }

    fn kind(&self) -> Result<Kind, ParseError> {
        let name = self.name;
        if !matches!(name, "FROM" | "RUN" | "COPY" | "ADD" | "HEALTHCHECK") && !self.flags.is_empty() {
            return self.error(format!("`{name}` takes no flags: remove `--{}`", self.flags[0]));
        }
        if self.arguments.is_empty() && KNOWN.contains(&name) {
            return self.error(format!("`{name}` needs something after it"));
        }
        Ok(match name {
            "FROM" => self.from()?,
            "ARG" => Kind::Arg(self.declarations()?),
            "ENV" => Kind::Env(self.pairs()?),
            "LABEL" => Kind::Label(self.pairs()?),
            "RUN" => self.run()?,
            "COPY" => Kind::Copy(self.transfer(&COPY_FLAGS)?),
            "ADD" => Kind::Add(self.transfer(&ADD_FLAGS)?),
            "WORKDIR" => Kind::Workdir(self.arguments.to_owned()),
            "USER" => Kind::User(self.one()?),
            "SHELL" => match json(self.arguments) {
                Some(words) if !words.is_empty() => Kind::Shell(words),
                _ => return self.error("`SHELL` takes a JSON array, for example `SHELL [\"/bin/bash\", \"-c\"]`"),
            },
            "ENTRYPOINT" => Kind::Entrypoint(self.command()),
            "CMD" => Kind::Cmd(self.command()),
            "EXPOSE" => Kind::Expose(self.words()),
            "VOLUME" => Kind::Volume(json(self.arguments).unwrap_or_else(|| self.words())),
            "STOPSIGNAL" => Kind::Stopsignal(self.one()?),
            "HEALTHCHECK" => Kind::Healthcheck(self.health()?),
            "MAINTAINER" => Kind::Maintainer(self.arguments.to_owned()),
            "ONBUILD" => {
                return self.error(
                    "`ONBUILD` is not supported: an image never changes the steps of others; write the instruction into \
                     the Dockerfile that needs it",
                );
            }
            _ => return self.error(self.unknown()),
        })
    }

    fn unknown(&self) -> String {
        let close =
            KNOWN.iter().min_by_key(|known| distance(known, self.name)).filter(|known| distance(known, self.name) <= 2);
        let advice = close.map_or_else(
            || "a line that goes on needs a `\\` at the end of the one before".to_owned(),
            |known| format!("did you mean `{known}`?"),
        );
        format!("`{}` is no instruction: {advice}", self.line.text.split_whitespace().next().unwrap_or_default())
    }

    fn words(&self) -> Vec<String> {
        self.arguments.split_whitespace().map(str::to_owned).collect()
    }

    fn one(&self) -> Result<String, ParseError> {
        match &self.words()[..] {
            [word] => Ok(word.clone()),
            _ => self.error(format!("`{}` takes one word, not `{}`", self.name, self.arguments)),
        }
    }

    fn command(&self) -> Command {
        json(self.arguments).map_or_else(|| Command::Shell(self.arguments.to_owned()), Command::Exec)
    }

    fn from(&self) -> Result<Kind, ParseError> {
        let platform = match &self.flags[..] {
            [] => None,
            [flag] if flag.starts_with("platform=") => flag.split_once('=').map(|(_, value)| value.to_owned()),
            _ => return self.error("`FROM` takes the flag `--platform` only"),
        };
        let words = self.words();
        let (image, name) = match &words[..] {
            [image] => (image, None),
            [image, word, name] if word.eq_ignore_ascii_case("as") => (image, Some(name.to_ascii_lowercase())),
            _ => return self.error("`FROM` is written `FROM image` or `FROM image AS stage`"),
        };
        if let Some(name) = &name {
            let fits = name.starts_with(|first: char| first.is_ascii_lowercase())
                && name
                    .chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_.".contains(letter));
            if !fits {
                return self.error(format!(
                    "`{name}` cannot be the name of a stage: it begins with a letter, and has letters, digits, `-`, `_` and `.`"
                ));
            }
        }
        Ok(Kind::From { image: image.clone(), name, platform })
    }

    fn declarations(&self) -> Result<Vec<Argument>, ParseError> {
        let declaration = |word: String| match word.split_once('=') {
            None => Argument { name: word, default: None },
            Some((name, default)) => Argument { name: name.to_owned(), default: Some(default.to_owned()) },
        };
        let declarations: Vec<_> = self.quoted_words().into_iter().map(declaration).collect();
        match declarations.iter().find(|argument| argument.name.is_empty()) {
            Some(_) => self.error("`ARG` needs a name before the `=`"),
            None => Ok(declarations),
        }
    }

    /// `A=b C=d`, or as it was once, `A b`.
    fn pairs(&self) -> Result<Vec<(String, String)>, ParseError> {
        let words = self.quoted_words();
        if !words[0].contains('=') {
            let Some((name, value)) = self.arguments.split_once(char::is_whitespace) else {
                return self.error(format!("`{}` needs a value: write `{} {}=value`", self.name, self.name, words[0]));
            };
            return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
        }
        let pair = |word: String| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => self.error(format!("`{word}` of `{}` has no `=` behind a name: quote values with spaces", self.name)),
        };
        words.into_iter().map(pair).collect()
    }

    /// Words as they are written, of which what is quoted holds together.
    fn quoted_words(&self) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        let mut characters = self.arguments.chars();
        while let Some(character) = characters.next() {
            if quote.is_none() && character.is_whitespace() {
                words.push(std::mem::take(&mut word));
                continue;
            }
            word.push(character);
            if character == self.escape && quote != Some('\'') {
                word.extend(characters.next());
            } else if quote == Some(character) {
                quote = None;
            } else if quote.is_none() && (character == '"' || character == '\'') {
                quote = Some(character);
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        words
    }

    fn run(&self) -> Result<Kind, ParseError> {
        let (mut mounts, mut network) = (Vec::new(), None);
        let command = self.command();
        for flag in &self.flags {
            match flag.split_once('=') {
                Some(("mount", value)) => mounts.push(value.to_owned()),
                Some(("network", value)) => network = Some(value.to_owned()),
                Some(("security", "sandbox")) => {}
                Some(("security", value)) => {
                    return self.error(format!("`--security={value}` is not supported: commands run in a sandbox"));
                }
                Some(("device", value)) => {
                    return self.error(format!(
                        "`--device={value}` is not supported: pass `gpu=` to the method, which lends it to the commands"
                    ));
                }
                _ => {
                    return self.error(format!("`RUN` does not take `--{flag}`: it takes `--mount=` and `--network=`"));
                }
            }
        }
        if matches!(&command, Command::Exec(words) if words.is_empty()) {
            return self.error("`RUN []` runs nothing: write a program in the brackets");
        }
        Ok(Kind::Run { command, documents: self.line.documents.clone(), mounts, network })
    }

    fn transfer(&self, known: &[&str]) -> Result<Transfer, ParseError> {
        let mut words = json(self.arguments).unwrap_or_else(|| self.words());
        let mut documents = self.line.documents.clone();
        let destination = words.pop().filter(|_| !words.is_empty());
        let Some(destination) = destination else {
            return self.error(format!("`{}` needs at least one source and a destination", self.name));
        };
        let is_document = |word: &str| word.trim_start_matches(|digit: char| digit.is_ascii_digit()).starts_with("<<");
        let sources: Vec<String> =
            words.into_iter().filter(|word| documents.is_empty() || !is_document(word)).collect();
        for document in &mut documents {
            if document.name.contains('/') || [".", ".."].contains(&&*document.name) {
                return self.error(format!("the here-document `{}` is no name of a file", document.name));
            }
        }
        Ok(Transfer { sources, destination, documents, options: self.options(known)? })
    }

    fn options(&self, known: &[&str]) -> Result<Options, ParseError> {
        let mut options = Options::default();
        for flag in &self.flags {
            let (name, value) = flag.split_once('=').map_or((&**flag, None), |(name, value)| (name, Some(value)));
            if !known.contains(&name) {
                let known = known.iter().map(|name| format!("`--{name}`")).collect::<Vec<_>>().join(", ");
                return self.error(format!("`{}` does not take `--{name}`: it takes {known}", self.name));
            }
            let text = || match value {
                Some(value) if !value.is_empty() => Ok(value.to_owned()),
                _ => self.error(format!("`--{name}` needs a value: write `--{name}=…`")),
            };
            let answer = || match value {
                None | Some("true" | "1") => Ok(true),
                Some("false" | "0") => Ok(false),
                Some(value) => self.error(format!("`--{name}={value}` is neither true nor false")),
            };
            match name {
                "from" => options.from = Some(text()?),
                "chown" => options.chown = Some(text()?),
                "chmod" => options.chmod = Some(text()?),
                "exclude" => options.exclude.push(text()?),
                "checksum" => options.checksum = Some(text()?),
                "link" => options.link = answer()?,
                "parents" => options.parents = answer()?,
                "unpack" => options.unpack = Some(answer()?),
                // `keep-git-dir`
                _ => drop(answer()?),
            }
        }
        Ok(options)
    }

    fn health(&self) -> Result<Option<Health>, ParseError> {
        let (word, rest) = self.arguments.split_once(char::is_whitespace).unwrap_or((self.arguments, ""));
        if word.eq_ignore_ascii_case("none") && rest.is_empty() {
            return Ok(None);
        }
        let rest = rest.trim_start();
        if !word.eq_ignore_ascii_case("cmd") || rest.is_empty() {
            return self.error("`HEALTHCHECK` is followed by `NONE`, or by `CMD` and a command");
        }
        let command = json(rest).map_or_else(|| Command::Shell(rest.to_owned()), Command::Exec);
        let mut health =
            Health { command, interval: None, timeout: None, start_period: None, start_interval: None, retries: None };
        for flag in &self.flags {
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            let time = || match duration(value) {
                Some(0) => Ok(None),
                Some(time) if time < 1_000_000 => {
                    self.error(format!("`--{name}={value}` is less than a millisecond, which is the least"))
                }
                Some(time) => Ok(Some(time)),
                None => self.error(format!("`--{name}={value}` is no time: write for example `--{name}=30s`")),
            };
            match name {
                "interval" => health.interval = time()?,
                "timeout" => health.timeout = time()?,
                "start-period" => health.start_period = time()?,
                "start-interval" => health.start_interval = time()?,
                "retries" => match value.parse() {
                    Ok(count) => health.retries = Some(count).filter(|count| *count > 0),
                    Err(_) => return self.error(format!("`--retries={value}` is no number")),
                },
                _ => return self.error(format!("`HEALTHCHECK` does not take `--{name}`")),
            }
        }
        Ok(Some(health))
    }
}

const COPY_FLAGS: [&str; 6] = ["from", "chown", "chmod", "link", "parents", "exclude"];
const ADD_FLAGS: [&str; 7] = ["chown", "chmod", "link", "exclude", "checksum", "unpack", "keep-git-dir"];
const KNOWN: [&str; 17] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A JSON array of strings; anything else is text.
fn json(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text.trim()).ok()
}

/// How many letters have to be changed, added or taken away to make one word of another.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (place, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(row[place] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use crate::Dockerfile;

    #[test]
    fn every_instruction_is_read() {
        let text = r#"
ARG VERSION=1 NAME "QUOTED=a b"
FROM --platform=linux/amd64 base:$VERSION as Build
ENV A=b C='d e' D=$A\ x
env OLD the old  form
LABEL "a.b"="c d" e=f
RUN --mount=type=cache,target=/c --mount=type=bind,"source=a b" --network=none make && echo "[x]"
RUN ["/bin/x", "a b"]
COPY --from=build --chown=1:2 --chmod=755 --link --exclude=*.a --exclude=b a* b /c/
COPY ["a b", "/c"]
ADD --checksum=sha256:00 https://host.invalid/x.tar /
WORKDIR /a b
USER app:users
SHELL ["/bin/bash", "-c"]
ENTRYPOINT ["x"]
CMD run it
EXPOSE 80 90/udp
VOLUME /a /b
VOLUME ["/c d"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=1m30s --timeout=0s --retries=3 CMD curl x
HEALTHCHECK none
MAINTAINER somebody
"#;
        let lines: Vec<String> = Dockerfile::parse(text)
            .unwrap()
            .instructions
            .iter()
            .map(|instruction| format!("{} {:?}", instruction.line, instruction.kind))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let errors: Vec<String> = [
            "FRON scratch",
            "FROM",
            "FROM a b",
            "FROM a AS 1st",
            "FROM --x=y a",
            "ENV A",
            "ENV A=b c",
            "ENV --x A=b",
            "COPY a",
            "COPY --what a b",
            "COPY --chown= a b",
            "COPY --link=maybe a b",
            "ADD --from=x a b",
            "RUN",
            "RUN --what x",
            "RUN []",
            "COPY <<.. /\n..",
            "RUN --security=insecure x",
            "RUN --device=nvidia.com/gpu=all x",
            "SHELL bash",
            "SHELL []",
            "USER a b",
            "ONBUILD RUN x",
            "HEALTHCHECK x",
            "HEALTHCHECK --interval=soon CMD x",
            "HEALTHCHECK --timeout=100us CMD x",
            "&& make",
        ]
        .iter()
        .map(|line| {
            let error = Dockerfile::parse(&format!("# comment\n{line}\n")).unwrap_err();
            assert_eq!(error.line, 2);
            error.to_string()
        })
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }
}
