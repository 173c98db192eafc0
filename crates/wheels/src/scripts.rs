//! The programs in `bin`: made from entry points, or shipped as `#!python` scripts.

use serde::{Deserialize, Serialize};

use crate::archive::{Refusal, check_path};
use crate::markers::version_is_in;
use crate::request::Installer;

/// Longest interpreter path that the kernel takes after `#!`.
const SHEBANG_LIMIT: usize = 127;

/// A program that calls a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryPoint {
    /// The program's name.
    pub(crate) name: String,
    /// The module to import.
    pub(crate) module: String,
    /// What to call in it, with dots for attributes.
    pub(crate) function: String,
}

/// Reads the `console_scripts` and `gui_scripts` of an `entry_points.txt`.
pub(crate) fn parse_entry_points(text: &str) -> Result<Vec<EntryPoint>, Refusal> {
    let mut points = Vec::new();
    let mut relevant = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            relevant = matches!(section.trim(), "console_scripts" | "gui_scripts");
        } else if relevant {
            points.push(parse_entry_point(line)?);
        }
    }
    points.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(points)
}

fn parse_entry_point(line: &str) -> Result<EntryPoint, Refusal> {
    let invalid = || format!("the entry point `{}` is not of the form `name = module:function`", line.escape_debug());
    let (name, object) = line.split_once('=').ok_or_else(invalid)?;
    // Extras in brackets are history: they may be there and mean nothing.
    let object = object.split('[').next().unwrap_or_default();
    let (module, function) = object.split_once(':').ok_or_else(invalid)?;
    let point = EntryPoint {
        name: name.trim().to_owned(),
        module: module.trim().to_owned(),
        function: function.trim().to_owned(),
    };
    // Both go into Python source text; a name with a slash would be a path.
    let identifiers = |text: &str| {
        text.split('.').all(|part| {
            !part.is_empty()
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
                && !part.starts_with(|c: char| c.is_ascii_digit())
        })
    };
    if point.name.contains('/') || check_path(&point.name).is_err() {
        let detail = format!("the entry point name `{}` is not a file name", point.name.escape_debug());
        return Err(Refusal::Dangerous(detail));
    }
    if identifiers(&point.module) && identifiers(&point.function) { Ok(point) } else { Err(invalid().into()) }
}

/// What the programs look like that an installer makes of entry points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProgramForm {
    /// Those of `uv`.
    Uv,
    /// Those of pip before 25.2.
    Pip,
    /// Those of pip 25.2 and 25.3.
    Pip25,
    /// Those of pip 26.
    Pip26,
}

/// The versions of pip whose programs are known.
const FORMS_OF_PIP: [(&str, ProgramForm); 3] =
    [(">=20.3,<25.2", ProgramForm::Pip), (">=25.2,<26", ProgramForm::Pip25), (">=26,<27", ProgramForm::Pip26)];

impl ProgramForm {
    /// The form of `installer`, if that is pip of this version; `None` if that is not known.
    pub(crate) fn of(installer: Installer, pip: Option<&str>) -> Option<Self> {
        match (installer, pip) {
            (Installer::Uv, _) => Some(Self::Uv),
            (Installer::Pip, Some(pip)) => {
                let is_in = |range| version_is_in(pip, range) == Some(true);
                FORMS_OF_PIP.into_iter().find(|(range, _)| is_in(range)).map(|(_, form)| form)
            }
            (Installer::Pip, None) => None,
        }
    }
}

/// The program text of an entry point.
pub(crate) fn program(point: &EntryPoint, interpreter: &str, form: ProgramForm) -> String {
    let EntryPoint { module, function, .. } = point;
    let import = function.split('.').next().unwrap_or_default();
    let shebang = shebang(interpreter);
    match form {
        ProgramForm::Uv => format!(
            r#"{shebang}
# -*- coding: utf-8 -*-
import sys
from {module} import {import}
if __name__ == "__main__":
    if sys.argv[0].endswith("-script.pyw"):
        sys.argv[0] = sys.argv[0][:-11]
    elif sys.argv[0].endswith(".exe"):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit({function}())
"#
        ),
        ProgramForm::Pip => format!(
            r"{shebang}
# -*- coding: utf-8 -*-
import re
import sys
from {module} import {import}
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\.pyw|\.exe)?$', '', sys.argv[0])
    sys.exit({function}())
"
        ),
        ProgramForm::Pip25 => format!(
            r"{shebang}
import sys
from {module} import {import}
if __name__ == '__main__':
    if sys.argv[0].endswith('.exe'):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit({function}())
"
        ),
        ProgramForm::Pip26 => format!(
            r"{shebang}
import sys
from {module} import {import}
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit({function}())
"
        ),
    }
}

/// The first line (or lines) of a script: long paths and those with spaces go through the shell.
fn shebang(interpreter: &str) -> String {
    if interpreter.len() + 2 <= SHEBANG_LIMIT && !interpreter.contains(' ') {
        return format!("#!{interpreter}");
    }
    let quoted = if interpreter.contains(' ') { format!("\"{interpreter}\"") } else { interpreter.to_owned() };
    format!("#!/bin/sh\n'''exec' {quoted} \"$0\" \"$@\"\n' '''")
}

/// Whether a script has a name that `uv` keeps for interpreters, which it refuses, or for what activates environments, of
/// which it warns.
pub(crate) fn is_reserved_by_uv(name: &str) -> bool {
    let is_version = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_interpreter = name.strip_prefix("python").is_some_and(|rest| rest == "w" || is_version(rest));
    is_interpreter || name == "activate_this.py" || name == "activate" || name.starts_with("activate.")
}

/// Whether a shipped script asks for the environment's interpreter.
pub(crate) fn wants_interpreter(contents: &[u8]) -> bool {
    contents.starts_with(b"#!python")
}

/// A shipped script with the interpreter as its first line; arguments there are dropped, as by both installers.
pub(crate) fn with_interpreter(contents: &[u8], interpreter: &str) -> Vec<u8> {
    let end = contents.iter().position(|byte| *byte == b'\n').unwrap_or(contents.len());
    [shebang(interpreter).as_bytes(), &contents[end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_points_are_read() {
        let points = parse_entry_points(
            "[console_scripts]\nzeta = pkg.cli:main.run [extra]\nalpha=pkg:main\n\n[other]\nx = y\n[gui_scripts]\ngui = pkg:gui\n",
        )
        .unwrap();
        let names: Vec<_> = points.iter().map(|point| point.name.as_str()).collect();
        assert_eq!(names, ["alpha", "gui", "zeta"]);
        assert_eq!((points[2].module.as_str(), points[2].function.as_str()), ("pkg.cli", "main.run"));
    }

    #[test]
    fn hostile_entry_points_are_refused() {
        for line in ["../x = a:b", "x = a;import os:b", "x = a:b();os", "x = a", "/x = a:b", "x/y = a:b", ".. = a:b"] {
            assert!(parse_entry_points(&format!("[console_scripts]\n{line}\n")).is_err(), "{line}");
        }
    }

    #[test]
    fn programs_are_those_of_the_installers() {
        let point = EntryPoint { name: "tool".into(), module: "pkg.cli".into(), function: "App.run".into() };
        insta::assert_snapshot!(program(&point, "/usr/bin/python3", ProgramForm::Pip), @r"
        #!/usr/bin/python3
        # -*- coding: utf-8 -*-
        import re
        import sys
        from pkg.cli import App
        if __name__ == '__main__':
            sys.argv[0] = re.sub(r'(-script\.pyw|\.exe)?$', '', sys.argv[0])
            sys.exit(App.run())
        ");
        let uv = program(&point, "/opt/with space/python", ProgramForm::Uv);
        assert!(uv.starts_with("#!/bin/sh\n'''exec' \"/opt/with space/python\" \"$0\" \"$@\"\n' '''\n# -*- coding"));
    }

    #[test]
    fn the_form_is_that_of_the_installer_inside() {
        for (pip, form) in [
            ("23.0.1", Some(ProgramForm::Pip)),
            ("25.1.1", Some(ProgramForm::Pip)),
            ("25.2", Some(ProgramForm::Pip25)),
            ("26.2", Some(ProgramForm::Pip26)),
            ("27.0", None),
            ("26.0b1", None),
            ("20.0.2", None),
        ] {
            assert_eq!(ProgramForm::of(Installer::Pip, Some(pip)), form, "{pip}");
        }
        assert_eq!(ProgramForm::of(Installer::Pip, None), None);
        assert_eq!(ProgramForm::of(Installer::Uv, None), Some(ProgramForm::Uv));
        let point = EntryPoint { name: "tool".into(), module: "pkg".into(), function: "run".into() };
        insta::assert_snapshot!(program(&point, "/usr/local/bin/python", ProgramForm::Pip26), @r"
        #!/usr/local/bin/python
        import sys
        from pkg import run
        if __name__ == '__main__':
            sys.argv[0] = sys.argv[0].removesuffix('.exe')
            sys.exit(run())
        ");
        assert!(program(&point, "/python", ProgramForm::Pip25).contains("\n        sys.argv[0] = sys.argv[0][:-4]\n"));
    }

    #[test]
    fn uv_keeps_some_names() {
        for name in ["python", "pythonw", "python3", "python3.11", "activate", "activate.fish", "activate_this.py"] {
            assert!(is_reserved_by_uv(name), "{name}");
        }
        for name in ["python-argcomplete", "pythonic", "ipython3", "activate-global", "deactivate", "tool"] {
            assert!(!is_reserved_by_uv(name), "{name}");
        }
    }

    #[test]
    fn shipped_scripts_get_the_interpreter() {
        assert_eq!(with_interpreter(b"#!python -E\nx\n", "/usr/bin/python3"), b"#!/usr/bin/python3\nx\n");
        assert_eq!(with_interpreter(b"#!pythonw\nx", "/usr/bin/python3"), b"#!/usr/bin/python3\nx");
        assert!(!wants_interpreter(b"#!/bin/sh\n"));
    }
}
