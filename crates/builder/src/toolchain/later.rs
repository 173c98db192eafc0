//! Which packages compile something in the functions of an image that has them.

use std::collections::BTreeSet;

use lamina_image::Package;
use serde_json::Value;

/// Packages that compile while programs use them, also where those use them through others.
const COMPILE_LATER: [&str; 2] = ["torch", "triton"];
/// Packages that do so for some programs: those that ask for them by name.
const COMPILE_FOR_SOME: [&str; 6] = ["cffi", "cppimport", "cython", "numba", "pybind11", "pythran"];

/// What the key of a step calls the packages of its project that compile something in functions.
pub(crate) const COMPILING: &str = "compiling";

/// Those packages of a project which compile something in functions. A lock has others also where nobody asks for them.
pub(crate) fn compiling(asked: &BTreeSet<String>, locked: &BTreeSet<String>) -> BTreeSet<String> {
    let named = asked.iter().filter(|name| compiles_for_who_asks(name));
    let present = locked.iter().filter(|name| COMPILE_LATER.contains(&name.as_str()));
    named.chain(present).cloned().collect()
}

fn compiles_for_who_asks(name: &str) -> bool {
    COMPILE_FOR_SOME.contains(&name) || COMPILE_LATER.contains(&name)
}

/// Whether what a step installs compiles something in functions. Its key's material says what it asks for, itself, in files
/// and in projects.
pub(crate) fn compiles_later(material: &Value, installed: &[Package]) -> bool {
    let kind = material.get("kind").and_then(Value::as_str);
    let is_installer = kind.is_some_and(|kind| ["pip_install", "uv_pip_install"].contains(&kind));
    let asked = |field: &str| material.get(field).filter(|_| is_installer).and_then(Value::as_array);
    let texts = ["packages", "requirements"].into_iter().filter_map(asked).flatten().filter_map(Value::as_str);
    let mut asked = texts.flat_map(str::lines).map(|line| name(line.trim()));
    material.get(COMPILING).is_some()
        || asked.any(|name| compiles_for_who_asks(&name))
        || installed.iter().any(|package| COMPILE_LATER.contains(&&*package.name))
}

/// The name that a requirement begins with.
fn name(requirement: &str) -> String {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let end = requirement.find(|character| !is_part(character)).unwrap_or(requirement.len());
    requirement[..end].to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use lamina_image::PackageKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn some_packages_compile_in_functions() {
        let later = |material: Value, installed: &[Package]| compiles_later(&material, installed);
        let asks = |package: &str| later(json!({"kind": "pip_install", "packages": [package]}), &[]);
        assert!(asks("torch==2.4") && asks("CFFI>=1") && asks("numba[extra]"));
        assert!(!asks("cryptography") && !asks("torchaudio"));
        let in_files = json!({"kind": "uv_pip_install", "packages": [], "requirements": ["# x\nattrs\n numba>=0.5\n"]});
        assert!(later(in_files, &[]));
        assert!(!later(json!({"kind": "apt_install", "packages": ["numba"]}), &[]));
        let installed = |name: &str| {
            let (name, version) = (name.to_owned(), "1".to_owned());
            let package = Package { kind: PackageKind::Pypi, name, version, source: None, sha256: None };
            later(json!({"kind": "pip_install", "packages": ["vllm"]}), &[package])
        };
        assert!(installed("triton") && !installed("cffi"));
        assert!(later(json!({"kind": "uv_sync", COMPILING: ["numba"]}), &[]));
        assert!(!later(json!({"kind": "uv_sync"}), &[]));
    }

    #[test]
    fn projects_compile_with_what_they_ask_for_and_with_what_compiles_anyway() {
        let names = |names: &str| names.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(compiling(&names("numba six"), &names("cffi numba six")), names("numba"));
        assert_eq!(compiling(&names("vllm"), &names("cffi torch triton vllm")), names("torch triton"));
        assert_eq!(compiling(&names("torch"), &names("")), names("torch"), "there need not be a lock");
        assert_eq!(compiling(&names("cryptography"), &names("cffi cryptography")), names(""));
    }
}
