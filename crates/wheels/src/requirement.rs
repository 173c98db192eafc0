//! As much about requirement lines as has to be known before the resolver sees them.

use crate::request::normalize_name;

/// Why a requirement line cannot be met by wheels of an index alone; `None` if it may be.
pub(crate) fn needs_source(line: &str) -> Option<String> {
    let line = line.trim();
    let first = line.split([' ', '=']).next().unwrap_or_default();
    if matches!(first, "-e" | "--editable") {
        return Some(format!("`{line}` is an editable install"));
    }
    if matches!(first, "--no-binary" | "--no-build-isolation" | "--config-settings") {
        return Some(format!("`{line}` asks for a build from source"));
    }
    if first == "--require-hashes" {
        return Some(format!("`{line}` is for the installer to enforce"));
    }
    if line.starts_with("-r") || line.starts_with("-c") || matches!(first, "--requirement" | "--constraint") {
        return Some(format!("`{line}` names a file that only the installer reads"));
    }
    if line.starts_with('-') {
        return Some(format!("`{line}` is an option of the installer"));
    }
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let line = line.split([';', '#']).next().unwrap_or_default().trim();
    // `name @ address`, an address, or a name; an `@` later in an address belongs to it.
    let location = match line.split_once('@') {
        Some((name, location)) if !name.contains('/') => location.trim(),
        _ => line,
    };
    if ["git+", "hg+", "svn+", "bzr+"].iter().any(|scheme| location.starts_with(scheme)) {
        return Some(format!("`{line}` is a version control address"));
    }
    if location.starts_with("file:") || (location.contains('/') && !location.contains("://")) || location == "." {
        return Some(format!("`{line}` is a local path"));
    }
    None
}

/// Why a package named on its own is more than a requirement; `None` if it is one.
pub(crate) fn is_no_requirement(package: &str) -> Option<String> {
    let has_option = package.trim_start().starts_with('-') || package.contains(" -");
    (has_option || package.contains(['\n', '\r']))
        .then(|| format!("`{}` is for the installer to understand", package.escape_debug()))
}

/// Why a constraint is more than a range of versions; `None` if it is one. pip takes none of extras.
pub(crate) fn is_no_plain_constraint(line: &str) -> Option<String> {
    let more = [" -", "://", "["].iter().any(|part| line.contains(part));
    (more || line.trim_start().starts_with('-'))
        .then(|| format!("the constraint `{}` is for the installer to understand", line.trim()))
}

/// The digests of files that a requirement line allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Any file.
    Any,
    /// Files with one of these SHA-256 digests, in lower-case hexadecimal digits.
    Only(Vec<String>),
    /// Only the installer can say.
    Unclear,
}

/// Which files a requirement line allows by its `--hash` options. Only pinned versions are told apart here: what a digest
/// means beside a range of versions differs between installers.
pub(crate) fn allowed(line: &str) -> Allowed {
    let in_address = line.split_once('#').is_some_and(|(_, fragment)| fragment.contains('='));
    if in_address {
        return Allowed::Unclear;
    }
    let Some((requirement, options)) = line.split_once(" --") else {
        return if line.contains("--") { Allowed::Unclear } else { Allowed::Any };
    };
    let mut digests = Vec::new();
    for option in options.split(" --") {
        let digest = option.trim().strip_prefix("hash").and_then(|rest| rest.strip_prefix(['=', ' ', '\t']));
        match digest.and_then(|digest| digest.trim().split_once(':')) {
            Some(("sha256", digest)) => digests.push(digest.to_ascii_lowercase()),
            _ => return Allowed::Unclear,
        }
    }
    if is_pinned(requirement) { Allowed::Only(digests) } else { Allowed::Unclear }
}

/// Whether a requirement is a name and exactly one version, markers aside.
pub(crate) fn is_pinned(requirement: &str) -> bool {
    let requirement = requirement.split(';').next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '!' | '-' | '_');
    requirement.split_once("==").is_some_and(|(name, version)| {
        let (name, version) = (name.split('[').next().unwrap_or_default(), version.trim());
        !name.contains(['<', '>', '~', '!', ',', '@']) && !version.is_empty() && version.chars().all(plain)
    })
}

/// Whether a line of a requirements file names the index to use.
pub(crate) fn names_index(line: &str) -> bool {
    let option = line.trim_start().strip_prefix("-i").or_else(|| line.trim_start().strip_prefix("--index-url"));
    option.is_some_and(|rest| rest.starts_with([' ', '\t', '=']))
}

/// The bounds of versions that a requirement states, of the form `>=1.0`; none if it names an address.
pub(crate) fn specifiers(requirement: &str) -> Vec<&str> {
    let stated = requirement.split(';').next().unwrap_or_default().split(" --").next().unwrap_or_default();
    let Some(start) = stated.find(|character| "<>=!~@".contains(character)) else { return Vec::new() };
    if stated[start..].starts_with('@') {
        return Vec::new();
    }
    stated[start..].trim_end().trim_end_matches(')').split(',').map(str::trim).collect()
}

/// Whether a requirement has pip take pre-releases: it names one as a version that is included.
pub(crate) fn asks_for_pre_release(requirement: &str) -> bool {
    specifiers(requirement).into_iter().any(|specifier| {
        let version = specifier.trim_start_matches(|character| "<>=!~".contains(character));
        let operator = &specifier[..specifier.len() - version.len()];
        matches!(operator, "==" | ">=" | "<=" | "~=" | "===") && is_pre_release(version)
    })
}

/// Whether a version is an alpha, beta, candidate or development version.
pub(crate) fn is_pre_release(version: &str) -> bool {
    let public = version.split('+').next().unwrap_or_default().to_ascii_lowercase();
    let mut words = public.split(|character: char| !character.is_ascii_alphabetic());
    words.any(|word| matches!(word, "a" | "alpha" | "b" | "beta" | "c" | "rc" | "pre" | "preview" | "dev"))
}

/// Whether a requirement's marker is about the kernel that runs.
pub(crate) fn asks_for_kernel(requirement: &str) -> bool {
    let marker = requirement.split_once(';').map_or("", |(_, marker)| marker);
    ["platform_release", "platform_version"].iter().any(|variable| marker.contains(variable))
}

/// The normalised name that a requirement line begins with, if it begins with one.
#[must_use]
pub fn name(line: &str) -> Option<String> {
    let line = line.trim_start();
    let length =
        line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))).unwrap_or(line.len());
    let starts_well = line.starts_with(|c: char| c.is_ascii_alphanumeric());
    (starts_well && !line[length..].starts_with(':'))
        .then(|| normalize_name(line[..length].trim_end_matches(['.', '-', '_'])))
}

/// The lines of a requirements file: comments off, continued lines joined.
pub(crate) fn lines(contents: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut joined = String::new();
    for line in contents.lines() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        let is_comment = |(at, _): &(usize, &str)| line[..*at].ends_with(char::is_whitespace);
        let line = line.match_indices('#').find(is_comment).map_or(line, |(at, _)| &line[..at]);
        let line = line.trim();
        if let Some(start) = line.strip_suffix('\\') {
            joined += start;
            joined.push(' ');
            continue;
        }
        joined += line;
        lines.push(std::mem::take(&mut joined));
    }
    lines.push(joined);
    lines.retain(|line| !line.trim().is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_from_names() {
        for line in [
            "pandas",
            "pandas>=2 ; python_version > '3'",
            "a[b]==1",
            "# x",
            "a @ https://x.invalid/a-1.whl",
            "https://x.invalid/a-1.whl",
        ] {
            assert_eq!(needs_source(line), None, "{line}");
        }
        for line in [
            "-e .",
            "./x",
            "/x/y.whl",
            ".",
            "git+https://git.invalid/x",
            "a @ git+https://git.invalid/x@v1",
            "a@file:///x",
            "x/y",
            "--no-binary :all:",
            "--require-hashes",
            "-r https://x.invalid/all.txt",
            "--constraint=https://x.invalid/all.txt",
            "-i https://x.invalid/simple",
            "-f ./wheels",
            "--pre",
        ] {
            assert!(needs_source(line).is_some(), "{line}");
        }
    }

    #[test]
    fn digests_belong_to_pinned_versions() {
        let only = |digests: &[&str]| Allowed::Only(digests.iter().map(|digest| (*digest).to_owned()).collect());
        for (line, expected) in [
            ("a==1", Allowed::Any),
            ("a>=1 ; python_version > '3'", Allowed::Any),
            ("a==1 --hash=sha256:AB", only(&["ab"])),
            ("a[b,c]==1 --hash=sha256:ab", only(&["ab"])),
            ("a==1--hash=sha256:ab", Allowed::Unclear),
            ("a==1\t--hash=sha256:ab", Allowed::Unclear),
            ("a[b] == 1.0+x ; sys_platform == 'linux' --hash=sha256:ab   --hash sha256:cd", only(&["ab", "cd"])),
            ("a --hash=sha256:ab", Allowed::Unclear),
            ("a>=1 --hash=sha256:ab", Allowed::Unclear),
            ("a==1.* --hash=sha256:ab", Allowed::Unclear),
            ("a==1,<2 --hash=sha256:ab", Allowed::Unclear),
            ("a==1 --hash=sha512:ab", Allowed::Unclear),
            ("a==1 --hash=sha256:ab --config-settings=x", Allowed::Unclear),
            ("a @ https://x.invalid/a-1.whl#sha256=ab", Allowed::Unclear),
            ("a @ https://x.invalid/a-1.whl --hash=sha256:ab", Allowed::Unclear),
        ] {
            assert_eq!(allowed(line), expected, "{line}");
        }
    }

    #[test]
    fn options_are_for_the_installer() {
        assert_eq!(is_no_requirement("a[b]>=1 ; python_version > '3'"), None);
        for package in ["--pre", "-e .", "a==1 --hash=sha256:ab", "a\nb"] {
            assert!(is_no_requirement(package).is_some(), "{package}");
        }
        assert_eq!(is_no_plain_constraint("a<2 ; python_version > '3'"), None);
        for line in ["-c x.txt", "a==1 --hash=sha256:ab", "a @ https://x.invalid/a-1.whl", "a[b]<2"] {
            assert!(is_no_plain_constraint(line).is_some(), "{line}");
        }
    }

    #[test]
    fn indexes_are_told_from_other_options() {
        for line in ["-i https://x.invalid", " --index-url=https://x.invalid", "--index-url https://x.invalid"] {
            assert!(names_index(line), "{line}");
        }
        for line in ["--extra-index-url https://x.invalid", "--index-strategy x", "-f x", "ipython"] {
            assert!(!names_index(line), "{line}");
        }
    }

    #[test]
    fn bounds_are_read() {
        assert_eq!(specifiers("a[b] (>=1, <2) ; python_version > '3'"), [">=1", "<2"]);
        assert_eq!(specifiers("a==1 --hash=sha256:ab"), ["==1"]);
        assert!(
            specifiers("a[b]; python_version > '3'").is_empty() && specifiers("a @ https://x.invalid/=1b2").is_empty()
        );
        for requirement in ["a>=1.0b1", "a (~=2.0.dev3)", "a<3,==1.0RC1", "a===1.0-alpha", "a==1.0.post1.dev2"] {
            assert!(asks_for_pre_release(requirement), "{requirement}");
        }
        for requirement in ["a", "a>=1.0.post1", "a<2.0.dev0", "a!=1.0b1", "a==1.0+dev", "a>1.0rc1", "beta>=1"] {
            assert!(!asks_for_pre_release(requirement), "{requirement}");
        }
    }

    #[test]
    fn names_are_found() {
        assert_eq!(name(" Py_Dantic[email]>=2").as_deref(), Some("py-dantic"));
        assert_eq!(name("a @ https://x.invalid/a-1.whl").as_deref(), Some("a"));
        assert_eq!(name("https://x.invalid/a-1.whl"), None);
        assert_eq!(name("-r x"), None);
    }

    #[test]
    fn lines_are_joined() {
        assert_eq!(
            lines("# c\na==1\\\n  --hash=sha256:00\n\nb # why\nc\t# #2\nd#e\nf>1,\\\n<2"),
            ["a==1 --hash=sha256:00", "b", "c", "d#e", "f>1, <2"]
        );
    }
}
