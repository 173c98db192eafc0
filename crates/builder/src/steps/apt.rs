//! `apt_install`: the real apt, inside the sandbox, with lists and archives shared between builds.

use lamina_bases::Suite;
use lamina_image::{Facts, KeyMaterial, Node};
use lamina_sandbox::Mount;
use lamina_store::{CacheFilter, CommitRules, Store, StoreError, Work};

use super::commands::Run;
use super::{Made, StepContext, StepError};
use crate::log::StepLog;

/// Lists younger than this many minutes are used without asking the mirror, if the image's sources are those that they were
/// made from; a failing install asks it all the same.
const LISTS_MINUTES: u32 = 60;

/// Where archives go that no other image may use, below apt's cache.
const OWN_ARCHIVES: &str = "own";

pub(crate) struct AptPlan {
    packages: Vec<String>,
}

/// The order of the packages is the user's and enters the key: apt sees it.
pub(crate) fn plan(packages: &[String], material: &mut KeyMaterial) -> AptPlan {
    material.add("kind", "apt_install");
    material.add("packages", packages.to_vec());
    AptPlan { packages: packages.to_vec() }
}

impl AptPlan {
    pub(crate) fn execute(self, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let store = &context.tools.store;
        let work = store.new_work()?;
        let suite = Suite::of(&context.parent.facts).map_or("other", Suite::name);
        let (lists, archives) = (format!("apt-{suite}-lists"), format!("apt-{suite}-archives"));
        let mounts = vec![
            cache_mount(store, &work, &lists, "/var/lib/apt/lists")?,
            cache_mount(store, &work, &archives, "/var/cache/apt")?,
        ];
        let pristine = context.parent.pristine && keeps_pristine(context.node, &self.packages);
        let commands = [install_command(&self.packages, pristine, context.node.force_build)];
        let run = Run {
            commands: &commands,
            environment: &[("DEBIAN_FRONTEND", "noninteractive")],
            mounts,
            ..Run::default()
        };
        let exit = run.execute(context, &work, log)?;
        // Whoever can plant files in the caches decides what other images install. So only an apt that nobody but Debian
        // has touched may add to them; the others read.
        if pristine {
            for cache in [&lists, &archives] {
                store.harvest_cache(&work, cache, &CacheFilter { include: Vec::new(), exclude: scratch() })?;
            }
        }
        let rules = CommitRules { package_step: true, package_times: true, drop_empty: exit.created_mountpoints };
        Ok(Made::Work { work, rules, facts: Facts::default(), held: None })
    }
}

/// Variables that only answer questions of packages: they bring no code of anybody's.
const ANSWERS: [&str; 2] = ["DEBIAN_FRONTEND", "DEBCONF_NONINTERACTIVE_SEEN"];

/// Whether a step runs nothing but Debian's own packages: it names packages, not options or files, and sets no variables
/// that could change what apt does.
pub(crate) fn keeps_pristine(node: &Node, packages: &[String]) -> bool {
    let is_name = |package: &String| {
        package.starts_with(|first: char| first.is_ascii_alphanumeric())
            && package.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.:=~".contains(&byte))
    };
    node.variables().all(|(name, _)| ANSWERS.contains(&name)) && packages.iter().all(is_name)
}

/// A cache of the store as an overlay: the step's own changes stay beside it until they are harvested.
fn cache_mount(store: &Store, work: &Work, name: &str, target: &str) -> Result<Mount, StoreError> {
    let lower = store.cache_directory(name)?;
    let (upper, work) = store.new_cache_upper(work, name)?;
    Ok(Mount::Cache { lower, upper, work, target: target.to_owned() })
}

/// Files of apt's that are only of use while it runs, or to one image: the cache of what is installed is believed by size
/// and time of dpkg's database, which images may share.
fn scratch() -> Vec<String> {
    ["**/lock", "**/partial", "**/auxfiles", "pkgcache.bin"].map(str::to_owned).to_vec()
}

/// Installs with the lists that are there if they are young and were made from the very sources, keys, pins and settings
/// that the image has now; otherwise apt asks for new ones, in the step alone. Archives are shared between such images only:
/// apt knows them by name and size, and another source may have others.
fn install_command(packages: &[String], pristine: bool, refresh: bool) -> String {
    let packages: Vec<String> = packages.iter().map(|package| quote(package)).collect();
    let packages = packages.join(" ");
    let known = if refresh { "false" } else { "true" };
    let own = if pristine { "false" } else { "[ ! -e \"$stamp\" ]" };
    format!(
        r#"mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial
sources=$({{
    cat "$APT_CONFIG" /dev/lamina/apt-*
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
    echo 'the package lists may be out of date: asking the mirror'
fi
update && install"#
    )
}

/// A word for the shell.
pub(crate) fn quote(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=@%+,".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        for (word, quoted) in [("git", "git"), ("a b", "'a b'"), ("x'y", r"'x'\''y'"), ("", "''"), ("$(id)", "'$(id)'")]
        {
            assert_eq!(quote(word), quoted);
        }
    }
}
