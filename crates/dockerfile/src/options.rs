//! `--mount` of `RUN`, and times.

use serde::{Deserialize, Serialize};

/// What a command sees beside the image while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMount {
    /// A directory that stays from one build to the next.
    Cache(Cache),
    /// A file or variable with a secret.
    Secret(Secret),
    /// A part of the context, of a stage or of an image.
    Bind(Bind),
    /// An empty directory in memory.
    Tmpfs(Tmpfs),
}

/// `type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Its name: caches of the same name that begin alike are one.
    pub id: String,
    /// Where it is.
    pub target: String,
    /// The stage or image that it begins as a copy of; none is an empty directory.
    pub from: Option<String>,
    /// The part of it that is shown.
    pub source: Option<String>,
    /// How commands share it.
    pub sharing: Sharing,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// Owner and mode of a new one, where any of them is given.
    pub made: Option<Made>,
}

/// Owner and mode of something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The mode.
    pub mode: u32,
}

/// How commands that run at the same time share a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All have it.
    Shared,
    /// One after the other.
    Locked,
    /// Each has one of its own.
    Private,
}

/// `type=secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub id: String,
    /// The file that holds it, unless it is a variable only.
    pub target: Option<String>,
    /// The variable that holds it.
    pub variable: Option<String>,
    /// Whether the command cannot run without it.
    pub required: bool,
    /// Owner and mode of the file.
    pub made: Made,
}

/// `type=bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The stage or image; none is the context.
    pub from: Option<String>,
    /// The path there.
    pub source: String,
    /// Where it is.
    pub target: String,
    /// Whether it can be written to; what is written is gone afterwards.
    pub writable: bool,
}

/// `type=tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where it is.
    pub target: String,
    /// Most bytes.
    pub size: Option<u64>,
}

/// A `--mount` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`--mount={mount}`: {message}")]
pub struct MountError {
    /// What is written.
    pub mount: String,
    /// What is wrong with it.
    pub message: String,
}

impl RunMount {
    /// Reads the value of `--mount`, of which variables are replaced already.
    ///
    /// # Errors
    /// When it names no kind of mount, or an option that this kind has not.
    pub fn parse(text: &str) -> Result<Self, MountError> {
        let wrong = |message: String| MountError { mount: text.to_owned(), message };
        let mut fields = Fields::read(text)?;
        let kind = fields.text("type").map(|kind| kind.to_ascii_lowercase());
        let known: &[&str] = match kind.as_deref() {
            None | Some("bind") => &["target", "source", "from", "ro", "rw", "id"],
            Some("cache") => &["id", "target", "ro", "rw", "sharing", "from", "source", "mode", "uid", "gid"],
            Some("tmpfs") => &["target", "size", "ro", "rw", "id"],
            Some("secret") => &["id", "source", "target", "env", "required", "mode", "uid", "gid", "ro", "rw"],
            Some("ssh") => return Err(wrong("agents are not supported: use `type=secret`".to_owned())),
            Some(other) => {
                return Err(wrong(format!("`{other}` is no kind of mount: there are bind, cache, secret and tmpfs")));
            }
        };
        fields.check(known)?;
        let target = fields.text("target");
        let needed = |target: Option<String>| target.ok_or_else(|| wrong("it needs a `target=`".to_owned()));
        let source = fields.text("source");
        let read_only = fields.is_read_only()?;
        Ok(match kind.as_deref() {
            Some("cache") => {
                let target = needed(target)?;
                let sharing = match fields.text("sharing").map(|sharing| sharing.to_ascii_lowercase()).as_deref() {
                    None | Some("shared") => Sharing::Shared,
                    Some("locked") => Sharing::Locked,
                    Some("private") => Sharing::Private,
                    Some(other) => {
                        return Err(wrong(format!("`sharing={other}` is none of shared, locked and private")));
                    }
                };
                let id = fields.text("id").unwrap_or_else(|| clean(&target));
                let source = source.filter(|source| clean(&format!("/{source}")) != "/");
                let from = fields.text("from");
                // Of what it begins as a part of, all is as it is there.
                let made = fields.made(0o755)?.filter(|_| source.is_none());
                Self::Cache(Cache { id, target, from, source, sharing, read_only: read_only == Some(true), made })
            }
            Some("tmpfs") => {
                let size = match fields.text("size") {
                    None => None,
                    Some(size) => Some(bytes(&size).ok_or_else(|| wrong(format!("`size={size}` is no size")))?),
                };
                Self::Tmpfs(Tmpfs { target: needed(target)?, size })
            }
            Some("secret") => {
                let id = match (source, fields.text("id")) {
                    (Some(_), Some(_)) => return Err(wrong("`source` and `id` are the same: remove one".to_owned())),
                    (source, id) => source.or(id),
                };
                let id = id.or_else(|| target.as_ref().map(|target| last(target).to_owned()));
                let id = id.ok_or_else(|| wrong("it needs an `id=`".to_owned()))?;
                // A variable without a name has that of the secret.
                let variable = fields.take("env").map(|name| if name.is_empty() { id.clone() } else { name });
                let file = || format!("/run/secrets/{}", last(&id));
                let target = target.or_else(|| variable.is_none().then(file));
                let required = fields.answer("required")?.unwrap_or(false);
                let made = fields.made(0o400)?.unwrap_or(Made { uid: 0, gid: 0, mode: 0o400 });
                Self::Secret(Secret { id, target, variable, required, made })
            }
            _ => {
                let from = fields.text("from");
                let source = source.unwrap_or_else(|| "/".to_owned());
                Self::Bind(Bind { from, source, target: needed(target)?, writable: read_only == Some(false) })
            }
        })
    }

    /// The stage or image that a mount is from, of which no variables are replaced: which it is has to be known before they are.
    ///
    /// # Errors
    /// When there is a variable in its name.
    pub fn named_source(text: &str) -> Result<Option<String>, MountError> {
        let mut fields = Fields::read(text)?;
        let from = fields.text("from");
        match from.as_deref().and_then(|from| from.find('$').filter(|at| at + 1 < from.len())) {
            Some(_) => {
                Err(fields.wrong("`from` takes no variables: name a stage `FROM … AS name`, and that here".to_owned()))
            }
            None => Ok(from),
        }
    }

    /// The stage or image that it is from.
    #[must_use]
    pub fn from(&self) -> Option<&str> {
        match self {
            Self::Bind(Bind { from, .. }) | Self::Cache(Cache { from, .. }) => from.as_deref(),
            Self::Secret(_) | Self::Tmpfs(_) => None,
        }
    }
}

/// The options of a mount that are not read yet: of one that is given twice, the last counts.
struct Fields<'a> {
    text: &'a str,
    fields: Vec<(String, String)>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, MountError> {
        let mut fields = Self { text, fields: Vec::new() };
        for field in split(text) {
            let (name, value) = field.split_once('=').map_or((&*field, None), |(name, value)| (name, Some(value)));
            let name = usual_name(&name.to_ascii_lowercase()).to_owned();
            let value = match value {
                Some(value) => value.to_owned(),
                None if matches!(&*name, "ro" | "rw" | "required") => "true".to_owned(),
                None => return Err(fields.wrong(format!("`{name}` needs a value: write `{name}=…`"))),
            };
            fields.fields.push((name, value));
        }
        Ok(fields)
    }

    fn wrong(&self, message: String) -> MountError {
        MountError { mount: self.text.to_owned(), message }
    }

    fn check(&self, known: &[&str]) -> Result<(), MountError> {
        match self.fields.iter().find(|(name, _)| !known.contains(&&**name)) {
            Some((name, _)) => Err(self.wrong(format!("it has no option `{name}`"))),
            None => Ok(()),
        }
    }

    /// The value of the last option of this name; none of its name is left.
    fn take(&mut self, name: &str) -> Option<String> {
        let given = self.fields.iter().rfind(|(field, _)| field == name).map(|(_, value)| value.clone());
        self.fields.retain(|(field, _)| field != name);
        given
    }

    /// The same, unless it is empty.
    fn text(&mut self, name: &str) -> Option<String> {
        self.take(name).filter(|value| !value.is_empty())
    }

    fn answer(&mut self, name: &str) -> Result<Option<bool>, MountError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let answer = truth(&value).map(Some);
        answer.ok_or_else(|| self.wrong(format!("`{name}={value}` is neither true nor false")))
    }

    /// What `ro` or `rw` says, whichever is last.
    fn is_read_only(&mut self) -> Result<Option<bool>, MountError> {
        let is_rw_last =
            self.fields.iter().rfind(|(name, _)| name == "ro" || name == "rw").is_some_and(|(name, _)| name == "rw");
        let (ro, rw) = (self.answer("ro")?, self.answer("rw")?.map(|writable| !writable));
        Ok(if is_rw_last { rw } else { ro })
    }

    fn number(&mut self, name: &str, radix: u32) -> Result<Option<u32>, MountError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = u32::from_str_radix(&value, radix).ok();
        number.map(Some).ok_or_else(|| self.wrong(format!("`{name}={value}` is no number")))
    }

    /// Owner and mode, if any of them is given.
    fn made(&mut self, usual: u32) -> Result<Option<Made>, MountError> {
        let (uid, gid, mode) = (self.number("uid", 10)?, self.number("gid", 10)?, self.number("mode", 8)?);
        let is_given = uid.is_some() || gid.is_some() || mode.is_some();
        let made = Made { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), mode: mode.unwrap_or(usual) & 0o7777 };
        Ok(is_given.then_some(made))
    }
}

/// What a word for true or false means to `BuildKit`.
pub(crate) fn truth(word: &str) -> Option<bool> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A path without what changes nothing.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

/// The name that an option goes by here.
fn usual_name(name: &str) -> &str {
    match name {
        "dst" | "destination" => "target",
        "src" => "source",
        "readonly" => "ro",
        "readwrite" => "rw",
        name => name,
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Fields between commas, of which quoted ones may hold commas.
fn split(text: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields
}

/// A number of bytes with a unit: `64m`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let text = text.strip_suffix('i').unwrap_or(text);
    let (number, shift) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 10),
        (at, 'm') => (&text[..at], 20),
        (at, 'g') => (&text[..at], 30),
        (at, 't') => (&text[..at], 40),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A time such as `1m30.5s`, in nanoseconds.
#[must_use]
pub fn duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (whole, fraction) = rest[..end].split_once('.').unwrap_or((&rest[..end], ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let units = [
            ("ns", 1),
            ("us", 1_000),
            ("µs", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let (unit, length) = units.iter().find(|(unit, _)| {
            rest[end..].strip_prefix(unit).is_some_and(|after| {
                after.is_empty() || after.starts_with(|next: char| next.is_ascii_digit() || next == '.')
            })
        })?;
        // Digits behind the point, the first of them a tenth, until they are less than a nanosecond.
        let parts = fraction.bytes().scan(*length, |part, digit| {
            *part /= 10;
            Some(*part * u64::from(digit - b'0'))
        });
        total = total.checked_add(whole.checked_mul(*length)?)?.checked_add(parts.sum())?;
        rest = &rest[end + unit.len()..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let mounts: Vec<String> = [
            "type=cache,target=/c",
            "type=cache,id=x,dst=/c,sharing=locked,readonly,mode=0700,uid=1,gid=2",
            "type=CACHE,target=/c/../d/,from=seed,src=/a/,uid=1,ro=false",
            "type=cache,target=c/,source=.,gid=7",
            "type=secret,id=TOKEN",
            "type=secret,target=/a/key,required=true",
            "type=secret,id=TOKEN,env=T",
            "type=secret,id=a/TOKEN,env=,uid=7",
            "type=secret,source=a/TOKEN,mode=0440",
            "type=secret,source=a,id=b",
            "target=/src",
            "target=/src,ro=false",
            "target=/src,ro,rw=False,rw=T",
            "target=/src,rw=maybe",
            "target",
            "type=bind,from=build,\"source=/a,b\",target=/src,rw",
            "type=tmpfs,target=/t,size=64m",
            "type=ssh",
            "type=what",
            "type=cache",
            "type=cache,target=/c,what=1",
            "type=tmpfs,target=/t,size=much",
        ]
        .iter()
        .map(|text| RunMount::parse(text).map_or_else(|error| error.to_string(), |mount| format!("{mount:?}")))
        .collect();
        insta::assert_snapshot!(mounts.join("\n"));
    }

    #[test]
    fn times_are_read() {
        for (text, time) in [
            ("5s", Some(5_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("250ms", Some(250_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("1h.25m1.000s", Some(3_616_000_000_000)),
            ("2.s", Some(2_000_000_000)),
        ] {
            assert_eq!(duration(text), time);
        }
        for text in ["", "5", "s", "5x", "-5s", ".s", "1.2.3s", "1.5"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
