//! Which wheels an interpreter can load, best first (PEP 425, 600).

use lamina_image::Libc;

use crate::request::Target;

/// The tags of one target, in order of preference.
pub(crate) struct Tags {
    ranked: std::collections::HashMap<(String, String, String), usize>,
}

impl Tags {
    /// The tags of `target`; none at all if its version is not understood.
    pub(crate) fn of(target: &Target) -> Self {
        let mut ranked = std::collections::HashMap::new();
        let Some((major, minor)) = target.python_minor() else {
            return Self { ranked };
        };
        let platforms = platforms(target);
        let mut add = |python: String, abi: String, platform: &str| {
            let next = ranked.len();
            ranked.entry((python, abi, platform.to_owned())).or_insert(next);
        };
        let own = format!("cp{major}{minor}");
        for abi in [own.as_str(), "abi3", "none"] {
            for platform in &platforms {
                add(own.clone(), abi.to_owned(), platform);
            }
        }
        for older in (2..minor).rev() {
            for platform in &platforms {
                add(format!("cp{major}{older}"), "abi3".to_owned(), platform);
            }
        }
        let pure: Vec<String> = std::iter::once(format!("py{major}{minor}"))
            .chain(std::iter::once(format!("py{major}")))
            .chain((0..minor).rev().map(|older| format!("py{major}{older}")))
            .collect();
        for python in &pure {
            for platform in &platforms {
                add(python.clone(), "none".to_owned(), platform);
            }
        }
        add(own, "none".to_owned(), "any");
        for python in pure {
            add(python, "none".to_owned(), "any");
        }
        Self { ranked }
    }

    /// How well the wheel with this file name fits: the lower the better, then the higher its build number; `None`: not at all.
    pub(crate) fn rank(&self, filename: &str) -> Option<(usize, std::cmp::Reverse<(u64, String)>)> {
        let parts: Vec<&str> = filename.strip_suffix(".whl")?.split('-').collect();
        let build = match parts.len() {
            5 => (0, String::new()),
            6 => build_number(parts[2]),
            _ => return None,
        };
        let [pythons, abis, platforms] = parts[parts.len() - 3..] else {
            return None;
        };
        let best = pythons
            .split('.')
            .flat_map(|python| abis.split('.').map(move |abi| (python, abi)))
            .flat_map(|(python, abi)| platforms.split('.').map(move |platform| (python, abi, platform)))
            .filter_map(|(python, abi, platform)| {
                self.ranked.get(&(python.to_owned(), abi.to_owned(), platform.to_owned())).copied()
            })
            .min()?;
        Some((best, std::cmp::Reverse(build)))
    }
}

fn build_number(tag: &str) -> (u64, String) {
    let digits = tag.len() - tag.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    (tag[..digits].parse().unwrap_or(0), tag[digits..].to_owned())
}

/// The platform tags, those of the newest C library first.
fn platforms(target: &Target) -> Vec<String> {
    let machine = &target.machine;
    let (major, newest) = match target.libc {
        Libc::Glibc(major, minor) => (major, minor),
        Libc::Musl(major, newest) => {
            let musl = (0..=newest).rev().map(|minor| format!("musllinux_{major}_{minor}_{machine}"));
            return musl.chain([format!("linux_{machine}")]).collect();
        }
    };
    let mut platforms = Vec::new();
    // glibc 2.17 is the oldest on aarch64; x86_64 goes back to 2.5.
    let oldest = if machine == "x86_64" { 5 } else { 17 };
    for minor in (oldest..=newest).rev() {
        platforms.push(format!("manylinux_{major}_{minor}_{machine}"));
        match minor {
            17 => platforms.push(format!("manylinux2014_{machine}")),
            12 => platforms.push(format!("manylinux2010_{machine}")),
            5 => platforms.push(format!("manylinux1_{machine}")),
            _ => {}
        }
    }
    platforms.push(format!("linux_{machine}"));
    platforms
}

/// The name that uv gives the target's platform: its newest manylinux that is not newer than the image's glibc, or its only musl.
pub(crate) fn uv_platform(target: &Target) -> Option<String> {
    const KNOWN: [u32; 12] = [40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17];
    if !matches!(target.machine.as_str(), "x86_64" | "aarch64") {
        return None;
    }
    match target.libc {
        Libc::Glibc(2, newest) => {
            let minor = KNOWN.into_iter().find(|minor| *minor <= newest)?;
            Some(format!("{}-manylinux_2_{minor}", target.machine))
        }
        Libc::Musl(1, 2) => Some(format!("{}-unknown-linux-musl", target.machine)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::target;

    #[test]
    fn the_most_specific_wheel_wins() {
        let tags = Tags::of(&target());
        let best = |names: &[&'static str]| {
            names.iter().copied().filter_map(|name| Some((tags.rank(name)?, name))).min().map(|(_, name)| name)
        };
        let pure = "a-1-py3-none-any.whl";
        let native = "a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl";
        assert_eq!(best(&[pure, native]), Some(native));
        assert_eq!(best(&[pure, "a-1-cp312-cp312-manylinux_2_17_x86_64.whl"]), Some(pure));
        assert_eq!(best(&["a-1-cp311-cp311-manylinux_2_40_x86_64.whl"]), None);
        assert_eq!(best(&["a-1-cp311-cp311-musllinux_1_2_x86_64.whl"]), None);
        assert_eq!(best(&["a-1-cp39-abi3-manylinux1_x86_64.whl", pure]), Some("a-1-cp39-abi3-manylinux1_x86_64.whl"));
        assert_eq!(best(&["a-1-2-py3-none-any.whl", pure, "a-1-10-py3-none-any.whl"]), Some("a-1-10-py3-none-any.whl"));
    }

    #[test]
    fn platforms_follow_the_image() {
        assert_eq!(uv_platform(&target()).as_deref(), Some("x86_64-manylinux_2_36"));
        assert_eq!(
            uv_platform(&Target { libc: Libc::Glibc(2, 30), ..target() }).as_deref(),
            Some("x86_64-manylinux_2_28")
        );
        let musl = Target { libc: Libc::Musl(1, 2), ..target() };
        assert_eq!(uv_platform(&musl).as_deref(), Some("x86_64-unknown-linux-musl"));
        assert_eq!(uv_platform(&Target { libc: Libc::Musl(1, 1), ..target() }), None);
        let tags = Tags::of(&musl);
        for (platform, fits) in [("musllinux_1_1", true), ("musllinux_1_3", false), ("manylinux_2_17", false)] {
            assert_eq!(tags.rank(&format!("a-1-cp311-cp311-{platform}_x86_64.whl")).is_some(), fits, "{platform}");
        }
        assert_eq!(uv_platform(&Target { machine: "riscv64".to_owned(), ..target() }), None);
    }
}
