//! What a slim image leaves out of its packages, now and when `apt` installs more.

/// Where the rules stand inside the image, for `dpkg`.
pub(crate) const CONFIGURATION: &str = "etc/dpkg/dpkg.cfg.d/slim";

/// Paths left out, with everything below them.
const EXCLUDED: [&str; 7] = [
    "usr/share/doc/",
    "usr/share/groff/",
    "usr/share/info/",
    "usr/share/linda/",
    "usr/share/lintian/overrides/",
    "usr/share/locale/",
    "usr/share/man/",
];

/// The file that makes `pip install` refuse to work outside virtual environments; in an image there is nothing to protect.
const MARKER: (&str, &str) = ("usr/lib/python3", "/EXTERNALLY-MANAGED");

/// The same rules in `dpkg`'s words. Copyright files stay: licences ask for them.
pub(crate) fn configuration() -> String {
    let excluded: Vec<_> = EXCLUDED.iter().map(|path| format!("path-exclude /{path}*\n")).collect();
    let (start, end) = MARKER;
    format!(
        "# Documentation and translations are of little use in a container.\n{}path-include /usr/share/doc/*/copyright\n\
         # pip may install into the image.\npath-exclude /{start}*{end}\n",
        excluded.concat()
    )
}

/// Whether a file (or link) is left out. Directories are made when something in them is kept.
pub(crate) fn is_excluded(path: &[u8]) -> bool {
    let Ok(path) = std::str::from_utf8(path) else {
        return false;
    };
    if path.starts_with(MARKER.0) && path.ends_with(MARKER.1) {
        return true;
    }
    EXCLUDED.iter().any(|prefix| path.starts_with(prefix))
        && !(path.starts_with("usr/share/doc/") && path.ends_with("/copyright"))
}

/// Whether a directory is made only if something in it is kept.
pub(crate) fn is_excluded_directory(path: &[u8]) -> bool {
    EXCLUDED.iter().any(|prefix| path.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_is_left_out_but_for_copyrights() {
        for (path, excluded) in [
            ("usr/share/doc/bash/README", true),
            ("usr/share/doc/bash/copyright", false),
            ("usr/share/man/man1/bash.1.gz", true),
            ("usr/share/locale/de/LC_MESSAGES/a.mo", true),
            ("usr/lib/python3.11/EXTERNALLY-MANAGED", true),
            ("usr/lib/python3.11/os.py", false),
            ("usr/share/documents", false),
        ] {
            assert_eq!(is_excluded(path.as_bytes()), excluded, "{path}");
        }
        insta::assert_snapshot!(configuration(), @r"
        # Documentation and translations are of little use in a container.
        path-exclude /usr/share/doc/*
        path-exclude /usr/share/groff/*
        path-exclude /usr/share/info/*
        path-exclude /usr/share/linda/*
        path-exclude /usr/share/lintian/overrides/*
        path-exclude /usr/share/locale/*
        path-exclude /usr/share/man/*
        path-include /usr/share/doc/*/copyright
        # pip may install into the image.
        path-exclude /usr/lib/python3*/EXTERNALLY-MANAGED
        ");
    }
}
