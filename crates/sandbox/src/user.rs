//! The user that a command runs as, looked up in the image as container engines do it.

use std::io::Read;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::failure::{During, Failure, Kind};

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";
/// Most bytes of either that are read: more than any real one has.
const MOST_BYTES: u64 = 16 << 20;

/// A user of the image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Groups beside the first one.
    pub(crate) groups: Vec<u32>,
    /// The home directory; none for root that nobody asked for.
    pub(crate) home: Option<String>,
}

impl User {
    /// The user that `wanted` names; the image is the root of the file system.
    pub(crate) fn find(wanted: Option<&str>) -> Result<Self, Failure> {
        let Some(wanted) = wanted else { return Ok(Self::default()) };
        Self::among(wanted, &read(USERS)?, &read(GROUPS)?).map_err(|missing| {
            let (what, path) = match missing {
                Missing::User => ("user", USERS),
                Missing::Group => ("group", GROUPS),
            };
            Failure::setup(what, path, Errno::NOENT).of_kind(Kind::User { name: wanted.to_owned() })
        })
    }

    /// The user that `wanted` names (a name or number, and a group behind a colon) among these users and groups.
    fn among(wanted: &str, users: &str, groups: &str) -> Result<Self, Missing> {
        let (user, group) = wanted.split_once(':').unwrap_or((wanted, ""));
        let number = |text: &str| text.parse::<u32>().ok();
        // Nothing before the colon is root.
        let user = if user.is_empty() { "0" } else { user };
        let entry = entries(users)
            .filter(|fields| fields.len() >= 6)
            .find(|fields| fields[0] == user || (number(user).is_some() && number(fields[2]) == number(user)));
        let uid = entry.as_ref().and_then(|fields| number(fields[2])).or_else(|| number(user)).ok_or(Missing::User)?;
        let name = entry.as_ref().map(|fields| fields[0]);
        let home = entry.as_ref().map(|fields| fields[5]).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
        let of_users = || entries(groups).filter(|fields| fields.len() >= 4);
        if group.is_empty() {
            let is_member = |members: &str| name.is_some_and(|name| members.split(',').any(|member| member == name));
            let others = of_users().filter(|fields| is_member(fields[3])).filter_map(|fields| number(fields[2]));
            let gid = entry.as_ref().and_then(|fields| number(fields[3])).unwrap_or(0);
            return Ok(Self { uid, gid, groups: others.collect(), home: Some(home) });
        }
        let known = of_users()
            .find(|fields| fields[0] == group || number(group).is_some_and(|gid| number(fields[2]) == Some(gid)));
        let gid = known.and_then(|fields| number(fields[2])).or_else(|| number(group)).ok_or(Missing::Group)?;
        Ok(Self { uid, gid, groups: Vec::new(), home: Some(home) })
    }
}

/// What the image does not have.
#[derive(Debug, PartialEq, Eq)]
enum Missing {
    User,
    Group,
}

/// The fields of each line.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.split(':').collect())
}

/// The text of a file of the image; nothing where it has none. What it is instead of a file is not waited for.
fn read(path: &str) -> Result<String, Failure> {
    let file = match openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        outcome => outcome.during("read", path)?,
    };
    if FileType::from_raw_mode(fstat(&file).during("look at", path)?.st_mode) != FileType::RegularFile {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(MOST_BYTES).read_to_end(&mut bytes).during("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\n\nbroken\napp:x:1000:100::/home/app:/bin/sh\n42:x:7:8::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\ndocker:x:999:app,other\naudio:x:29:other,app\n";

    #[test]
    fn users_are_found_as_container_engines_find_them() {
        let user = |uid, gid, groups: &[u32], home: &str| {
            Ok(User { uid, gid, groups: groups.to_vec(), home: Some(home.to_owned()) })
        };
        let cases = [
            ("root", user(0, 0, &[], "/root")),
            ("0", user(0, 0, &[], "/root")),
            ("app", user(1000, 100, &[999, 29], "/home/app")),
            ("1000", user(1000, 100, &[999, 29], "/home/app")),
            ("app:docker", user(1000, 999, &[], "/home/app")),
            ("app:12", user(1000, 12, &[], "/home/app")),
            ("app:", user(1000, 100, &[999, 29], "/home/app")),
            (":docker", user(0, 999, &[], "/root")),
            ("4711", user(4711, 0, &[], "/")),
            ("4711:4712", user(4711, 4712, &[], "/")),
            ("42", user(7, 8, &[], "/")),
            ("nobody", Err(Missing::User)),
            ("app:nogroup", Err(Missing::Group)),
        ];
        for (wanted, expected) in cases {
            assert_eq!(User::among(wanted, PASSWD, GROUP), expected, "{wanted}");
        }
        assert_eq!(User::among("12:13", "", ""), user(12, 13, &[], "/"));
    }
}
