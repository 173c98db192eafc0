//! Names under which Debian's packages were known: what to say when a release does not have one.

/// Packages that many programs ask for and that have another name now: the name, its successor, and the last release that
/// has the old one, where a base has that release.
const RENAMED: [(&str, &str, Option<Release>); 62] = [
    ("chromium-browser", "chromium", None),
    ("dnsutils", "bind9-dnsutils", Some(BOOKWORM)),
    ("exa", "eza", Some(BOOKWORM)),
    ("firefox", "firefox-esr", None),
    ("iproute", "iproute2", None),
    ("libappindicator1", "libayatana-appindicator3-1", None),
    ("libaio1", "libaio1t64", Some(BOOKWORM)),
    ("libasound2", "libasound2t64", Some(BOOKWORM)),
    ("libatk-bridge2.0-0", "libatk-bridge2.0-0t64", Some(BOOKWORM)),
    ("libatk1.0-0", "libatk1.0-0t64", Some(BOOKWORM)),
    ("libatlas-base-dev", "libopenblas-dev", Some(BOOKWORM)),
    ("libatspi2.0-0", "libatspi2.0-0t64", Some(BOOKWORM)),
    ("libavcodec58", "ffmpeg", Some(BULLSEYE)),
    ("libavcodec59", "ffmpeg", Some(BOOKWORM)),
    ("libcups2", "libcups2t64", Some(BOOKWORM)),
    ("libcurl4", "libcurl4t64", Some(BOOKWORM)),
    ("libdc1394-22-dev", "libdc1394-dev", None),
    ("libegl1-mesa", "libegl1", Some(BOOKWORM)),
    ("libenchant1c2a", "libenchant-2-2", None),
    ("libffi6", "libffi8", None),
    ("libffi7", "libffi8", Some(BULLSEYE)),
    ("libgdk-pixbuf2.0-0", "libgdk-pixbuf-2.0-0", Some(BOOKWORM)),
    ("libgl1-mesa-glx", "libgl1", Some(BOOKWORM)),
    ("libgles2-mesa", "libgles2", Some(BOOKWORM)),
    ("libglib2.0-0", "libglib2.0-0t64", Some(BOOKWORM)),
    ("libgtk-3-0", "libgtk-3-0t64", Some(BOOKWORM)),
    ("libicu67", "libicu-dev", Some(BULLSEYE)),
    ("libicu72", "libicu-dev", Some(BOOKWORM)),
    ("libjemalloc1", "libjemalloc2", None),
    ("libjpeg8", "libjpeg62-turbo", None),
    ("libldap-2.4-2", "libldap-dev", Some(BULLSEYE)),
    ("libldap-2.5-0", "libldap2", Some(BOOKWORM)),
    ("libmysqlclient-dev", "default-libmysqlclient-dev", None),
    ("libncurses5", "libncurses6", Some(BOOKWORM)),
    ("libncurses5-dev", "libncurses-dev", Some(BOOKWORM)),
    ("libncursesw5-dev", "libncurses-dev", Some(BOOKWORM)),
    ("libopenblas-base", "libopenblas0", None),
    ("libpng12-0", "libpng-dev", None),
    ("libpng16-16", "libpng16-16t64", Some(BOOKWORM)),
    ("libqt5gui5", "libqt5gui5t64", Some(BOOKWORM)),
    ("libreadline7", "libreadline-dev", None),
    ("libreadline8", "libreadline8t64", Some(BOOKWORM)),
    ("libssl1.1", "libssl3", Some(BULLSEYE)),
    ("libssl3", "libssl3t64", Some(BOOKWORM)),
    ("libtbb2", "libtbb12", Some(BULLSEYE)),
    ("libtiff5", "libtiff6", Some(BULLSEYE)),
    ("libtinfo5", "libtinfo6", Some(BOOKWORM)),
    ("libwebp6", "libwebp7", Some(BULLSEYE)),
    ("mysql-client", "default-mysql-client", None),
    ("mysql-server", "default-mysql-server", None),
    ("neofetch", "fastfetch", Some(BOOKWORM)),
    ("netcat", "netcat-openbsd", Some(BULLSEYE)),
    ("openjdk-8-jdk", "default-jdk", None),
    ("openjdk-11-jdk", "default-jdk", Some(BULLSEYE)),
    ("openjdk-17-jdk", "default-jdk", Some(BOOKWORM)),
    ("openjdk-17-jre", "default-jre", Some(BOOKWORM)),
    ("python", "python-is-python3", None),
    ("python-dev", "python3-dev", None),
    ("python-pip", "python3-pip", None),
    ("python3-distutils", "python3-setuptools", Some(BOOKWORM)),
    ("qt5-default", "qtbase5-dev", None),
    ("ttf-liberation", "fonts-liberation", None),
];

/// Packages that went without a successor.
const GONE: [(&str, Release); 3] =
    [("libgconf-2-4", BOOKWORM), ("software-properties-common", BOOKWORM), ("wkhtmltopdf", BOOKWORM)];

/// Packages of the parts of Debian that images do not ask for.
const NOT_FREE: [(&str, &str); 7] = [
    ("fonts-ubuntu", "non-free"),
    ("intel-mkl", "non-free"),
    ("libfdk-aac-dev", "non-free"),
    ("nvidia-cuda-toolkit", "non-free"),
    ("rar", "non-free"),
    ("ttf-mscorefonts-installer", "contrib"),
    ("unrar", "non-free"),
];

/// A release by its number, and a Python whose base it is.
type Release = (&'static str, &'static str);
const BULLSEYE: Release = ("11", "3.9");
const BOOKWORM: Release = ("12", "3.11");

/// What to do about a package that the image's release of Debian does not have.
pub(super) fn hint(package: &str) -> String {
    if let Some((_, component)) = NOT_FREE.iter().find(|(name, _)| *name == package) {
        return format!(
            "`{package}` is in Debian's `{component}`, which images do not ask for: add `.run_commands(\"sed -i 's/ main$/ main \
             contrib non-free/' /etc/apt/sources.list\")` before this step"
        );
    }
    if let Some((_, successor, release)) = RENAMED.iter().find(|(name, ..)| *name == package) {
        let elsewhere =
            release.map_or_else(String::new, |release| format!("; {} still has `{package}`", base(release)));
        return format!("this release of Debian has `{successor}` in the place of `{package}`{elsewhere}");
    }
    if let Some((_, release)) = GONE.iter().find(|(name, _)| *name == package) {
        return format!("this release of Debian has no `{package}` any more; {} still has it", base(*release));
    }
    if let Some(series) = package.strip_prefix("python").filter(|rest| rest.starts_with("3.")) {
        let series = series.split('-').next().unwrap_or(series);
        return format!(
            "a release of Debian has one Python: `debian_slim(python_version=\"{series}\")` makes a base with that one"
        );
    }
    format!(
        "Debian has no package `{package}` in this release: check its spelling, and whether it has another name there (libraries \
         change their number; since Debian 13 some end in `t64`)"
    )
}

fn base((number, python): Release) -> String {
    format!("Debian {number}, the base of `debian_slim(python_version=\"{python}\")`,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_are_explained() {
        let hints: Vec<_> =
            ["libgl1-mesa-glx", "python-pip", "wkhtmltopdf", "unrar", "python3.10-dev", "gti"].map(hint).into();
        insta::assert_snapshot!(hints.join("\n"), @r#"
        this release of Debian has `libgl1` in the place of `libgl1-mesa-glx`; Debian 12, the base of `debian_slim(python_version="3.11")`, still has `libgl1-mesa-glx`
        this release of Debian has `python3-pip` in the place of `python-pip`
        this release of Debian has no `wkhtmltopdf` any more; Debian 12, the base of `debian_slim(python_version="3.11")`, still has it
        `unrar` is in Debian's `non-free`, which images do not ask for: add `.run_commands("sed -i 's/ main$/ main contrib non-free/' /etc/apt/sources.list")` before this step
        a release of Debian has one Python: `debian_slim(python_version="3.10")` makes a base with that one
        Debian has no package `gti` in this release: check its spelling, and whether it has another name there (libraries change their number; since Debian 13 some end in `t64`)
        "#);
    }
}
