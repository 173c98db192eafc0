//! Overlays: the image itself and package caches.
//!
//! Layers, upper and work directory are given relative to the store, which is the working directory meanwhile. With
//! `userxattr` an overlay needs no privilege outside and never redirects, so that an upper is a diff on its own. Files of
//! layers below [`REDIRECTED`] have no bytes of their own but lead to objects, which an overlay gets as a data-only layer.
//! Without privileges the kernel lets only the lowest layer lead there; so each of the others is shown by an overlay of its
//! own, which is a lower directory of the image's. Small layers there have their bytes after all, and say so at their roots.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};

use lamina_ground::{Stack, StorePath, Subject};
use rustix::fs::{AtFlags, CWD, Mode, mkdirat, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, mount,
};
use rustix::process::{chdir, fchdir};

use super::image::attach_at;
use crate::Upper;
use crate::failure::{During, Failure, Kind};
use crate::features::Feature;
use crate::tiny_root::{EMPTY, IMAGE, MEMORY, STORE, attach, memory_filesystem};

/// Where the store has layers whose files lead to objects.
const REDIRECTED: &str = "views/";
/// What the root of such a layer says if its files have their bytes themselves after all.
const HAS_COPIES: &str = "user.overlay.lamina.copies";
/// What it says if there are deletions in the layer.
const HAS_WHITEOUTS: &str = "user.overlay.lamina.whiteouts";
/// Where it has the deletions of such layers.
const WHITEOUTS: &str = "whiteouts/";
/// Where it has the objects.
const OBJECTS: &str = "objects";
/// What no overlay has as an option.
const UNKNOWN_OPTION: &str = "lamina";
/// Most directories that Linux takes below an upper.
const MOST_LAYERS: usize = 500;

/// The parts of an overlay.
struct Overlay<'spec> {
    /// As the kernel lists them: the upper ones first.
    lowers: Vec<String>,
    /// What the files of the lowest layer lead to.
    data: Option<&'static str>,
    upper: &'spec str,
    work: &'spec str,
    /// Whether the filesystem of the upper is spared being synchronised.
    volatile: bool,
}

/// Mounts the image at its place in the tiny root.
pub(super) fn mount_image(layers: &Stack<StorePath>, upper: &Upper) -> Result<(), Failure> {
    // Two steps with the same result are the same layer, and the kernel refuses to stack one directory twice. The upper
    // occurrence decides about everything that the lower one holds.
    let mut seen = HashSet::new();
    let mut lowers: Vec<String> =
        layers.top_down().filter(|layer| seen.insert(*layer)).map(ToString::to_string).collect();
    if lowers.is_empty() {
        lowers.push(EMPTY.to_owned());
    }
    let data = lowers.last().filter(|layer| layer.starts_with(REDIRECTED)).map(|_| OBJECTS);
    // Open until the image is mounted, which then holds them.
    let shown = show_redirected(&mut lowers)?;
    let (count, most) = (lowers.len(), MOST_LAYERS - usize::from(data.is_some()));
    if count > most {
        let failure = Failure::setup("mount the overlay", IMAGE, Errno::INVAL);
        return Err(failure.of_kind(Kind::Layers { count, most }));
    }
    let (upper, work) = (upper_directory(upper)?, work_directory(upper));
    let overlay = Overlay { lowers, data, upper: &upper, work: &work, volatile: true };
    let mounted = match overlay.mount_detached()? {
        Some(tree) => attach(&tree, IMAGE),
        None => overlay.mount_by_options(IMAGE),
    };
    drop(shown);
    mounted
}

/// Has an overlay of its own show every layer but the lowest whose files lead to objects, and puts it in the layer's place.
/// Deletions of a layer are for those below it, but an overlay shows none of its own to another one: where a layer has some,
/// a directory of them comes next.
fn show_redirected(lowers: &mut Vec<String>) -> Result<Vec<OwnedFd>, Failure> {
    let Some(lowest) = lowers.pop() else { return Ok(Vec::new()) };
    let mut shown = Vec::new();
    for layer in std::mem::take(lowers) {
        if !layer.starts_with(REDIRECTED) || says(&layer, HAS_COPIES) {
            lowers.push(layer);
            continue;
        }
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during("make the filesystem", "overlay")?;
        fsconfig_set_string(&context, "lowerdir+", &*layer).during("open the layer", &layer)?;
        fsconfig_set_string(&context, "datadir+", OBJECTS).during("open the layer", OBJECTS)?;
        fsconfig_set_flag(&context, "userxattr").during("configure the overlay with", "userxattr")?;
        create(&context, &layer)?;
        let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
            .during("mount the overlay", &layer)?;
        lowers.push(format!("/proc/self/fd/{}", tree.as_raw_fd()));
        shown.push(tree);
        if says(&layer, HAS_WHITEOUTS) {
            lowers.push(layer.replacen(REDIRECTED, WHITEOUTS, 1));
        }
    }
    lowers.push(lowest);
    Ok(shown)
}

/// Whether the root of a layer has one of the store's marks, which overlays pass over.
fn says(layer: &str, mark: &str) -> bool {
    let mut nothing = [0; 1];
    rustix::fs::getxattr(layer, mark, &mut nothing).is_ok()
}

/// Makes a configured overlay; the kernel's own words say why it cannot be made.
fn create(context: &OwnedFd, what: &str) -> Result<(), Failure> {
    fsconfig_create(context).map_err(|errno| {
        let mut log = vec![0; 512];
        let length = rustix::io::read(context, &mut log[..]).unwrap_or(0);
        let message = String::from_utf8_lossy(&log[..length]);
        Failure::setup("mount the overlay", &format!("{what} ({})", message.trim()), errno).on(Subject::Store)
    })
}

/// Mounts a cache over a directory of the image.
pub(super) fn mount_cache(
    lower: &StorePath,
    upper: &StorePath,
    work: &StorePath,
    place: &OwnedFd,
    target: &str,
) -> Result<(), Failure> {
    let lowers = vec![lower.to_string()];
    let overlay = Overlay { lowers, data: None, upper: upper.as_str(), work: work.as_str(), volatile: true };
    match overlay.mount_detached()? {
        Some(tree) => attach_at(&tree, place, target),
        // A link of /proc to a descriptor leads to the very directory.
        None => overlay.mount_by_options(&format!("/proc/self/fd/{}", place.as_raw_fd())),
    }
}

/// The upper directory; memory is mounted first where it is to be there.
fn upper_directory(upper: &Upper) -> Result<String, Failure> {
    match upper {
        Upper::Store { upper, .. } => Ok(upper.to_string()),
        Upper::Memory { limit_bytes } => {
            let tree = memory_filesystem(&[("mode", "755"), ("size", &limit_bytes.to_string())])?;
            for name in ["upper", "work"] {
                mkdirat(&tree, name, Mode::from_raw_mode(0o755)).during("make in memory", name)?;
            }
            attach(&tree, MEMORY)?;
            Ok(format!("{MEMORY}/upper"))
        }
    }
}

/// The work directory that belongs to it.
fn work_directory(upper: &Upper) -> String {
    match upper {
        Upper::Store { work, .. } => work.to_string(),
        Upper::Memory { .. } => format!("{MEMORY}/work"),
    }
}

impl Overlay<'_> {
    /// Makes the overlay without mounting it anywhere; `None` where the kernel takes no layer at a time (before 6.8).
    fn mount_detached(&self) -> Result<Option<OwnedFd>, Failure> {
        if !Feature::LowerDirectories.is_allowed() {
            return Ok(None);
        }
        self.forgive_volatile();
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during("make the filesystem", "overlay")?;
        // Overlays before 6.5 take any option at this point, and say no when they are made.
        if fsconfig_set_flag(&context, UNKNOWN_OPTION).is_ok() {
            return Ok(None);
        }
        for (index, lower) in self.lowers.iter().enumerate() {
            match fsconfig_set_string(&context, "lowerdir+", &**lower) {
                Err(Errno::INVAL) if index == 0 && !is_directory(lower) => {
                    return Err(Failure::setup("open the layer", lower, Errno::NOENT));
                }
                Err(Errno::INVAL) if index == 0 => return Ok(None),
                result => result.during("open the layer", lower)?,
            }
        }
        if let Some(data) = self.data {
            fsconfig_set_string(&context, "datadir+", data).during("open the layer", data)?;
        }
        // Layers and upper may be on several file systems; files are to have the image's device number all the same.
        fsconfig_set_string(&context, "xino", "on").during("configure the overlay with", "xino")?;
        fsconfig_set_string(&context, "upperdir", self.upper).during("open the upper directory", self.upper)?;
        fsconfig_set_string(&context, "workdir", self.work).during("open the work directory", self.work)?;
        let mut flags = vec!["userxattr"];
        if self.volatile {
            flags.push("volatile");
        }
        for flag in flags {
            fsconfig_set_flag(&context, flag).during("configure the overlay with", flag)?;
        }
        create(&context, self.upper)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
            .map(Some)
            .during("mount the overlay", self.upper)
    }

    /// Mounts the overlay at `target` in the way of older kernels: all directories in one string. That may be as long as a
    /// page of memory, so each directory gets the name of a link, as short as can be.
    fn mount_by_options(&self, target: &str) -> Result<(), Failure> {
        self.forgive_volatile();
        let links = memory_filesystem(&[("mode", "700"), ("size", "1m")])?;
        let link = |name: &str, directory: &str| {
            let directory = absolute(directory);
            if !is_directory(&directory) {
                return Err(Failure::setup("open the layer", &directory, Errno::NOENT));
            }
            symlinkat(&*directory, &links, name).during("make the link", name)
        };
        let names: Vec<String> = (0..self.lowers.len()).map(|number| number.to_string()).collect();
        for (name, directory) in names.iter().zip(&self.lowers) {
            link(name, directory)?;
        }
        link("u", self.upper)?;
        link("w", self.work)?;
        let mut lowers = names.join(":");
        if let Some(data) = self.data {
            link("d", data)?;
            lowers.push_str("::d");
        }
        let mut options = format!("userxattr,xino=on,lowerdir={lowers},upperdir=u,workdir=w");
        if self.volatile {
            options.push_str(",volatile");
        }
        let options = std::ffi::CString::new(options)
            .map_err(|_| Failure::setup("mount the overlay", self.upper, Errno::INVAL))?;
        fchdir(&links).during("enter", "the links to the layers")?;
        mount("overlay", target, "overlay", MountFlags::NODEV, &*options)
            .during("mount the overlay", self.upper)
            .map_err(|failure| failure.on(Subject::Store))?;
        chdir(STORE).during("enter", STORE)
    }

    /// Removes the mark of an earlier mount of the same upper that it may be incomplete after a crash: a crash loses the
    /// whole directory of the step, so that none is left when the mark could matter.
    fn forgive_volatile(&self) {
        let directory = AtFlags::REMOVEDIR;
        let marks = [("/volatile/dirty", AtFlags::empty()), ("/volatile", directory), ("", directory)];
        for (mark, flags) in marks {
            let _ = unlinkat(CWD, format!("{}/work/incompat{mark}", self.work), flags);
        }
    }
}

/// A path of the tiny root, from one that may be relative to the store.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{STORE}/{path}") }
}

fn is_directory(path: &str) -> bool {
    rustix::fs::stat(path).is_ok_and(|status| rustix::fs::FileType::from_raw_mode(status.st_mode).is_dir())
}
