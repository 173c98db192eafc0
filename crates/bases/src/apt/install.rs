//! Installing packages with the real apt, with lists and archives shared between builds.

use lamina_image::Facts;
use lamina_store::CacheFilter;

use crate::Suite;
use crate::shell::quote;

/// Lists younger than this many minutes are used without asking the mirror, if the image's sources are those that they were
/// made from; a failing install asks it all the same.
const LISTS_MINUTES: u32 = 60;

/// What is printed before a failed install asks the mirror: what stands above it is no reason of a failure.
pub const ASKING_AGAIN: &str = "the package lists may be out of date: asking the mirror";

/// What is printed where apt has nowhere to look.
pub(super) const NO_SOURCES: &str = "E: the image names no sources of packages";
/// What is printed before the name of a package of which pins allow no version.
pub(super) const PINNED: &str = "E: pins of the image forbid every version of ";

/// What is printed before the name of a package of which another version or release is asked for, and those that there are.
pub(super) const VERSIONS: &str = "E: versions that there are of ";

/// Where archives go that no other image may use, below apt's cache.
const OWN_ARCHIVES: &str = "own";

/// Variables that only answer questions of packages: they bring no code of anybody's.
const ANSWERS: [&str; 2] = ["DEBIAN_FRONTEND", "DEBCONF_NONINTERACTIVE_SEEN"];

/// Packages to install.
#[derive(Debug, Clone, Copy)]
pub struct Install<'a> {
    /// What is known about the image.
    pub facts: &'a Facts,
    /// The packages, as apt takes them.
    pub packages: &'a [String],
    /// Whether nobody but Debian has touched the image: then others may use the archives that apt gets.
    pub is_signed: bool,
    /// Whether to ask the mirror for new lists in any case.
    pub refresh: bool,
}

/// A directory that installing shares between builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Its name in the store.
    pub name: String,
    /// Where it is inside.
    pub target: &'static str,
}

impl Install<'_> {
    /// Variables for the command.
    pub const ENVIRONMENT: [(&'static str, &'static str); 1] = [("DEBIAN_FRONTEND", "noninteractive")];

    /// The directories to share, for this release of Debian.
    #[must_use]
    pub fn caches(&self) -> [Cache; 2] {
        let suite = Suite::of(self.facts).map_or("other", Suite::name);
        [("lists", "/var/lib/apt/lists"), ("archives", "/var/cache/apt")]
            .map(|(what, target)| Cache { name: format!("apt-{suite}-{what}"), target })
    }

    /// What of them is of use to others: not the files that matter only while apt runs, or to one image. The cache of what
    /// is installed is believed by size and time of dpkg's database, which images may share.
    #[must_use]
    pub fn shared() -> CacheFilter {
        let exclude = ["**/lock", "**/partial", "**/auxfiles", "pkgcache.bin"].map(str::to_owned).to_vec();
        CacheFilter { include: Vec::new(), exclude }
    }

    /// The shell command. After a failure it says what apt does not: that there are no sources, that pins forbid a
    /// package, or which versions there are.
    /// It installs with the lists that are there if they are young and were made from the very sources,
    /// keys, pins and settings that the image has now; otherwise apt asks for new ones, in the step alone. Archives are
    /// shared between such images only: apt knows them by name and size, and another source may have others. The files
    /// in `directory` are the host's settings.
    #[must_use]
    pub fn command(&self, directory: &str) -> String {
        let packages: Vec<_> = self.packages.iter().map(|package| quote(package)).collect();
        let packages = packages.join(" ");
        let known = if self.refresh { "false" } else { "true" };
        let own = if self.is_signed { "false" } else { "[ ! -e \"$stamp\" ]" };
        format!(
            r#"mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial
sources=$({{
    cat "$APT_CONFIG" {directory}/apt-* /var/lib/dpkg/arch
    find -L /etc/apt /usr/share/keyrings -type f -exec sha256sum {{}} + | LC_ALL=C sort
}} 2>/dev/null | sha256sum | cut -c 1-32)
stamp=/var/lib/apt/lists/lamina-$sources
archives=
if {own}; then
    mkdir -p /var/cache/apt/{OWN_ARCHIVES}/partial
    archives=-oDir::Cache::archives=/var/cache/apt/{OWN_ARCHIVES}
fi
update() {{ apt-get update && touch "$stamp"; }}
install() {{ apt-get $archives install -y {packages}; }}
if {known} && [ -n "$(find "$stamp" -mmin -{LISTS_MINUTES} 2>/dev/null)" ]; then
    install && exit 0
    echo '{ASKING_AGAIN}'
fi
update || exit
install && exit 0
status=$?
[ -n "$(apt-get indextargets 2>/dev/null)" ] || echo '{NO_SOURCES}'
for package in {packages}; do
    if LC_ALL=C apt-cache policy -- "$package" 2>/dev/null | grep -A 9 'Candidate: (none)' | grep -q ' -[0-9]*$'; then
        echo "{PINNED}$package"
    fi
    name=${{package%%[=/]*}}
    if [ "$name" != "$package" ] && [ -z "$(apt-cache show -- "$package" 2>/dev/null)" ]; then
        apt-cache madison -- "$name" 2>/dev/null | while IFS='|' read -r _ version source; do
            set -- $version $source
            echo "$1 ($3)"
        done | paste -sd, - | sed 's/,/, /g; s/^..*/{VERSIONS}'"$name"': &/'
    fi
done
exit $status"#
        )
    }
}

/// Whether installing `packages` with these variables runs nothing but signed packages: they are names, not options or
/// files, and no variable could change what apt does.
pub fn brings_only_packages<'a>(packages: &[String], mut variables: impl Iterator<Item = &'a str>) -> bool {
    let is_name = |package: &String| {
        package.starts_with(|first: char| first.is_ascii_alphanumeric())
            && package.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.:=~".contains(&byte))
    };
    variables.all(|name| ANSWERS.contains(&name)) && packages.iter().all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_signed(packages: &[&str], variables: &[&str]) -> bool {
        let packages: Vec<_> = packages.iter().map(|&package| package.to_owned()).collect();
        brings_only_packages(&packages, variables.iter().copied())
    }

    #[test]
    fn names_of_packages_bring_nothing_else() {
        assert!(is_signed(&["git", "g++", "libssl3:amd64", "curl=7.88.1-10+deb12u8~x"], &["DEBIAN_FRONTEND"]));
        for packages in ["./x.deb", "/x.deb", "-oAPT::x=y", "--allow-unauthenticated", "a b", "git/sid"] {
            assert!(!is_signed(&[packages], &[]), "{packages}");
        }
        assert!(!is_signed(&["git"], &["APT_CONFIG"]));
    }

    #[test]
    fn caches_are_of_a_release() {
        let facts = Facts::default();
        let install = Install { facts: &facts, packages: &["a b".to_owned()], is_signed: false, refresh: true };
        assert_eq!(install.caches()[1], Cache { name: "apt-other-archives".to_owned(), target: "/var/cache/apt" });
        let command = install.command("/dev/x");
        assert!(command.contains("install -y 'a b'; }") && command.contains("/dev/x/apt-*"), "{command}");
        assert!(command.contains("\nif false && "), "{command}");
    }
}
