//! Locks of conda-lock: the packages of several platforms by address, those of pip among them.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use crate::locked::Locked;
use crate::request::subdirs;
use crate::spec_file::Wanted;

/// The group of packages that is installed where none is named.
const GROUP: &str = "main";

/// A lock.
#[derive(Debug, Deserialize)]
pub(crate) struct LockFile {
    version: u64,
    package: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manager: String,
    platform: String,
    url: String,
    #[serde(default)]
    hash: BTreeMap<String, String>,
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    optional: bool,
}

impl LockFile {
    /// What it locks for this machine's platform.
    pub(crate) fn wanted(self) -> Result<Wanted, String> {
        let [platform, _] = subdirs().map_err(|error| error.to_string())?;
        if self.version != 1 {
            return Err(format!("it is a lock of version `{}`; version `1` is understood", self.version));
        }
        if !self.package.is_empty() && self.package.iter().all(|package| package.platform != platform.as_str()) {
            return Err(format!("it locks nothing for `{platform}`: name that platform when locking"));
        }
        let mut wanted = Wanted { is_locked: true, ..Wanted::default() };
        let is_wanted = |package: &Package| {
            let group = package.category.as_deref().unwrap_or(GROUP);
            package.platform == platform.as_str() && group == GROUP && !package.optional
        };
        for package in self.package.into_iter().filter(is_wanted) {
            match package.manager.as_str() {
                "conda" => wanted.locked.push(package.locked()?),
                "pip" => wanted.pip.push(package.requirement()),
                other => return Err(format!("packages for `{other}` cannot be installed; those for `pip` can")),
            }
        }
        Ok(wanted)
    }
}

impl Package {
    fn locked(&self) -> Result<Locked, String> {
        let url = Url::parse(&self.url).map_err(|error| format!("the address of `{}` is none: {error}", self.name))?;
        let digest = |kind: &str| self.hash.get(kind).map(|digest| digest.to_ascii_lowercase());
        let mut locked = Locked::parse(url.as_str())?;
        locked.md5 = digest("md5").or(locked.md5);
        locked.sha256 = digest("sha256").or(locked.sha256);
        // It becomes the name of a file.
        if locked.sha256.as_ref().is_some_and(|digest| !lamina_fetch::is_sha256(digest)) {
            return Err(format!("the SHA-256 of `{}` is none", self.name));
        }
        Ok(locked)
    }

    fn requirement(&self) -> String {
        let digest = self.hash.get("sha256").map(|digest| format!("#sha256={digest}")).unwrap_or_default();
        format!("{} @ {}{digest}", self.name, self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Wanted, String> {
        let text = text.replace("OWN", subdirs().unwrap()[0].as_str());
        serde_yaml::from_str::<LockFile>(&text).unwrap().wanted()
    }

    #[test]
    fn what_is_for_this_platform_and_not_optional_is_wanted() {
        let package = |manager: &str, platform: &str, name: &str, more: &str| {
            format!(
                "- {{name: {name}, version: '1', manager: {manager}, platform: {platform}, url: 'https://x.invalid/c/noarch/{name}-1-0.conda', hash: {{md5: {0}, sha256: {0}{0}}}, {more}}}\n",
                "0a".repeat(16)
            )
        };
        let text = [
            "version: 1\nmetadata: {}\npackage:\n".to_owned(),
            package("conda", "OWN", "a", "category: main"),
            package("conda", "win-64", "b", ""),
            package("conda", "OWN", "c", "category: dev, optional: true"),
            package("pip", "OWN", "d", ""),
        ];
        let wanted = read(&text.concat()).unwrap();
        assert_eq!(wanted.locked.len(), 1);
        assert_eq!(wanted.locked[0].sha256.as_ref().map(String::len), Some(64));
        assert_eq!(wanted.pip, [format!("d @ https://x.invalid/c/noarch/d-1-0.conda#sha256={}", "0a".repeat(32))]);
        let hostile = text.concat().replace(&"0a".repeat(32), "../../x");
        assert_eq!(read(&hostile).unwrap_err(), "the SHA-256 of `a` is none");
        let other = [text[0].clone(), package("conda", "win-64", "b", "")].concat();
        assert!(read(&other).unwrap_err().starts_with("it locks nothing for `linux-"));
        assert!(read("version: 9\npackage: []\n").unwrap_err().contains("lock of version `9`"));
    }
}
