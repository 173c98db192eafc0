//! `--mount` of `RUN`, and times.

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
    /// Its name: caches of the same name are one.
    pub id: String,
    /// Where it is.
    pub target: String,
    /// How commands share it.
    pub sharing: Sharing,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// The mode of a new one.
    pub mode: u32,
    /// The owner of a new one.
    pub uid: u32,
    /// The group of a new one.
    pub gid: u32,
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
    /// The mode of the file.
    pub mode: u32,
    /// The owner of the file.
    pub uid: u32,
    /// The group of the file.
    pub gid: u32,
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
        let fields: Vec<(String, Option<String>)> = split(text)
            .into_iter()
            .map(|field| match field.split_once('=') {
                Some((name, value)) => (name.to_ascii_lowercase(), Some(value.to_owned())),
                None => (field.to_ascii_lowercase(), None),
            })
            .collect();
        let known: &[&str] = match fields
            .iter()
            .find(|(name, _)| name == "type")
            .and_then(|(_, value)| value.as_deref())
        {
            None | Some("bind") => &["type", "target", "source", "from", "ro", "rw"],
            Some("cache") => &["type", "id", "target", "ro", "rw", "sharing", "from", "source", "mode", "uid", "gid"],
            Some("tmpfs") => &["type", "target", "size"],
            Some("secret") => &["type", "id", "target", "env", "required", "mode", "uid", "gid"],
            Some("ssh") => return Err(wrong("agents are not supported: use `type=secret`".to_owned())),
            Some(other) => {
                return Err(wrong(format!("`{other}` is no kind of mount: there are bind, cache, secret and tmpfs")));
            }
        };
        let mut fields: Vec<_> =
            fields.into_iter().map(|(name, value)| (usual_name(&name).to_owned(), value)).collect();
        if let Some((name, _)) = fields.iter().find(|(name, _)| !known.contains(&&**name)) {
            return Err(wrong(format!("it has no option `{name}`")));
        }
        let mut take = |name: &str| {
            let at = fields.iter().rposition(|(field, _)| field == name)?;
            Some(fields.swap_remove(at).1)
        };
        let kind = take("type").flatten();
        let answer = |name: &str, given: Option<Option<String>>| match given.as_ref().map(|value| value.as_deref()) {
            None | Some(Some("false" | "0")) => Ok(false),
            Some(None | Some("true" | "1")) => Ok(true),
            Some(Some(value)) => Err(wrong(format!("`{name}={value}` is neither true nor false"))),
        };
        let number = |name: &str, given: Option<Option<String>>, usual: u32, radix: u32| match given.flatten() {
            None => Ok(usual),
            Some(value) => {
                u32::from_str_radix(&value, radix).map_err(|_| wrong(format!("`{name}={value}` is no number")))
            }
        };
        let target = take("target").flatten().filter(|target| !target.is_empty());
        let needed = |target: Option<String>| target.ok_or_else(|| wrong("it needs a `target=`".to_owned()));
        Ok(match kind.as_deref() {
            Some("cache") => {
                let target = needed(target)?;
                if let Some(Some(from)) = take("from") {
                    return Err(wrong(format!("a cache that begins as a copy (`from={from}`) is not supported")));
                }
                take("source");
                let sharing = match take("sharing").flatten().as_deref() {
                    None | Some("shared") => Sharing::Shared,
                    Some("locked") => Sharing::Locked,
                    Some("private") => Sharing::Private,
                    Some(other) => {
                        return Err(wrong(format!("`sharing={other}` is none of shared, locked and private")));
                    }
                };
                let id = take("id").flatten().filter(|id| !id.is_empty()).unwrap_or_else(|| target.clone());
                let read_only = answer("ro", take("ro"))?;
                let mode = number("mode", take("mode"), 0o755, 8)?;
                let (uid, gid) = (number("uid", take("uid"), 0, 10)?, number("gid", take("gid"), 0, 10)?);
                Self::Cache(Cache { id, target, sharing, read_only, mode, uid, gid })
            }
            Some("tmpfs") => {
                let size = match take("size").flatten() {
                    None => None,
                    Some(size) => Some(bytes(&size).ok_or_else(|| wrong(format!("`size={size}` is no size")))?),
                };
                Self::Tmpfs(Tmpfs { target: needed(target)?, size })
            }
            Some("secret") => {
                let variable = take("env").flatten().filter(|name| !name.is_empty());
                let id = take("id").flatten().or_else(|| target.as_ref().map(|target| last(target).to_owned()));
                let id = id.ok_or_else(|| wrong("it needs an `id=`".to_owned()))?;
                let file = || format!("/run/secrets/{id}");
                let target = target.or_else(|| variable.is_none().then(file));
                let required = answer("required", take("required"))?;
                let mode = number("mode", take("mode"), 0o400, 8)?;
                let (uid, gid) = (number("uid", take("uid"), 0, 10)?, number("gid", take("gid"), 0, 10)?);
                Self::Secret(Secret { id, target, variable, required, mode, uid, gid })
            }
            _ => {
                let source = take("source").flatten().filter(|source| !source.is_empty());
                let from = take("from").flatten().filter(|from| !from.is_empty());
                let writable = answer("rw", take("rw"))?;
                let source = source.unwrap_or_else(|| "/".to_owned());
                Self::Bind(Bind { from, source, target: needed(target)?, writable })
            }
        })
    }
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
            "type=secret,id=TOKEN",
            "type=secret,target=/a/key,required=true",
            "type=secret,id=TOKEN,env=T",
            "target=/src",
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
