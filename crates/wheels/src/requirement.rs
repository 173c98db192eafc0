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
    if line.is_empty() || line.starts_with(['-', '#']) {
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

/// The normalised name that a requirement line begins with, if it begins with one.
pub(crate) fn name(line: &str) -> Option<String> {
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
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.starts_with('#') {
            continue;
        }
        if let Some(start) = line.strip_suffix('\\') {
            joined += start;
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
            "-r other.txt",
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
        ] {
            assert!(needs_source(line).is_some(), "{line}");
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
        assert_eq!(lines("# c\na==1 \\\n  --hash=sha256:00\n\nb # why\n"), ["a==1 --hash=sha256:00", "b"]);
    }
}
