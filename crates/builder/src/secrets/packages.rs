//! What packages brought: files that the lists of their packages name, with the digests that are written there.

use std::cell::OnceCell;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use fs_err as fs;
use lamina_bases::dpkg;
use lamina_store::LayerPath;
use md5::Md5;
use sha2::Sha256;

/// The lists of packages that a step installed.
#[derive(Debug)]
pub(super) struct Packages {
    upper: LayerPath,
    of_system: OnceCell<dpkg::Installed>,
}

impl Packages {
    /// The packages of the changes in an upper.
    pub(super) fn new(upper: LayerPath) -> Self {
        Self { upper, of_system: OnceCell::new() }
    }

    /// Whether what is at this path of the image is as a package brought it.
    pub(super) fn brought(&self, inside: &Path) -> bool {
        if dpkg::RECORDS.iter().any(|record| inside.starts_with(record)) {
            return true;
        }
        let of_system = self.of_system.get_or_init(|| dpkg::Installed::read(self.upper.on_disk()));
        let file = self.at(inside);
        if !fs::symlink_metadata(file.on_disk()).is_ok_and(|metadata| metadata.is_file()) {
            return of_system.paths.contains(inside.as_os_str().as_bytes());
        }
        match of_system.digests.get(inside.as_os_str().as_bytes()) {
            Some(digest) => digest_of::<Md5>(&file).is_some_and(|found| HEXLOWER.encode(&found) == *digest),
            None => self.is_of_wheel(inside) || source_of(inside).is_some_and(|source| self.brought(&source)),
        }
    }

    fn at(&self, inside: &Path) -> LayerPath {
        self.upper.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Whether the `RECORD` of a wheel in a directory above names the file with the digest that it has.
    fn is_of_wheel(&self, inside: &Path) -> bool {
        inside.ancestors().skip(1).any(|site| {
            let name = inside.strip_prefix(site).unwrap_or(inside).as_os_str().as_bytes();
            records(&self.at(site)).any(|record| {
                self.at(inside) == record || is_recorded(&read(&record).unwrap_or_default(), name, &self.at(inside))
            })
        })
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// The `RECORD`s of the wheels that are installed in a directory.
fn records(site: &LayerPath) -> impl Iterator<Item = LayerPath> {
    let entries = fs::read_dir(site.on_disk()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name()).filter(|name| name.as_bytes().ends_with(b".dist-info"));
    names.map(|name| site.join(name).join("RECORD"))
}

fn read(file: &LayerPath) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.open().ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Whether a `RECORD` names the file with its digest: `name,sha256=digest,size`.
fn is_recorded(record: &[u8], name: &[u8], file: &LayerPath) -> bool {
    let digest = lines(record).find_map(|line| line.strip_prefix(name)?.strip_prefix(b",sha256="));
    let digest = digest.and_then(|digest| digest.split(|byte| matches!(byte, b',' | b'=' | b'\r')).next());
    digest.is_some_and(|digest| {
        digest_of::<Sha256>(file).is_some_and(|found| BASE64URL_NOPAD.encode(&found).as_bytes() == digest)
    })
}

/// The source of a file of bytecode.
fn source_of(inside: &Path) -> Option<PathBuf> {
    let name = inside.file_name()?.to_str()?.strip_suffix(".pyc")?;
    let directory = inside.parent()?.parent()?;
    inside
        .parent()?
        .ends_with("__pycache__")
        .then(|| directory.join(format!("{}.py", name.split('.').next().unwrap_or(name))))
}

fn digest_of<D: sha2::Digest>(file: &LayerPath) -> Option<Vec<u8>> {
    let mut file = file.open().ok()?;
    let (mut hasher, mut buffer) = (D::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize().to_vec()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packages_brought_is_known_by_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("var/lib/dpkg/info/x.md5sums", "5d41402abc4b2a76b9719d911017c592  usr/share/x/data\n");
        write("var/lib/dpkg/info/x.list", "/.\n/usr/share/x\n/usr/share/x/data\n/usr/share/empty\n");
        write("var/lib/dpkg/status", "Package: x\nConffiles:\n /etc/x.conf 5d41402abc4b2a76b9719d911017c592\n");
        for file in
            ["usr/share/x/data", "etc/x.conf", "usr/share/x/new", "site/p/a.py", "site/p/__pycache__/a.cpython-311.pyc"]
        {
            write(file, "hello");
        }
        let record = "p/a.py,sha256=LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ,5\np-1.dist-info/RECORD,,\n";
        write("site/p-1.dist-info/RECORD", record);
        fs::create_dir_all(directory.path().join("usr/share/empty")).unwrap();
        let brought =
            |path: &str| Packages::new(LayerPath::view(directory.path(), &".".into())).brought(Path::new(path));
        for path in [
            "/usr/share/x/data",
            "/etc/x.conf",
            "/usr/share/empty",
            "/site/p/a.py",
            "/site/p/__pycache__/a.cpython-311.pyc",
            "/site/p-1.dist-info/RECORD",
            "/var/lib/dpkg/status",
        ] {
            assert!(brought(path), "{path}");
        }
        assert!(!brought("/usr/share/x/new"));
        for path in ["usr/share/x/data", "etc/x.conf", "site/p/a.py"] {
            write(path, "changed");
            assert!(!brought(&format!("/{path}")), "{path}");
        }
    }
}
