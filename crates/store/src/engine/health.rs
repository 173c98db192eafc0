//! Checking the store, and mending it.

use std::collections::HashSet;
use std::path::PathBuf;

use lamina_events::CancelToken;
use lamina_image::Digest;

use super::Store;
use crate::protocol::{CheckedObjects, CheckedPackages, DamagedDescription, Repaired, Request};
use crate::{LayerRecord, ObjectName, StoreError};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checked {
    /// Layers that were read.
    pub layers: u64,
    /// Objects that were read; none where only an image was asked for.
    pub objects: u64,
    /// Kept packages whose descriptions were read; none where only an image was asked for.
    pub packages: u64,
    /// Layers that are damaged.
    pub damages: Vec<Damage>,
    /// Damaged objects, relative to the content directory.
    pub damaged_objects: Vec<PathBuf>,
    /// Whether damaged objects were put aside.
    pub objects_are_aside: bool,
    /// Damaged descriptions of kept packages.
    pub damaged_descriptions: Vec<DamagedDescription>,
    /// Whether damaged descriptions were put aside.
    pub descriptions_are_aside: bool,
}

/// A damaged layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Damage {
    /// The layer.
    pub digest: Digest,
    /// The step that made it, if that is known.
    pub title: Option<String>,
    /// What is wrong, in sentences.
    pub problems: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a damaged layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it was.
    Stays,
    /// Another process uses it, so it is as it was.
    InUse,
    /// It is whole again.
    Restored,
    /// It could not be made from what is there and was forgotten: the next build makes it again.
    Forgotten,
}

impl Checked {
    /// Whether something damaged can still be used.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let stays = |damage: &Damage| matches!(damage.outcome, Outcome::Stays | Outcome::InUse);
        self.damages.iter().any(stays)
            || !(self.damaged_objects.is_empty() || self.objects_are_aside)
            || !(self.damaged_descriptions.is_empty() || self.descriptions_are_aside)
    }
}

impl Store {
    /// Reads every byte of these layers, or of everything. `progress` hears how many parts of all are done.
    ///
    /// # Errors
    /// When cancelled, or the store cannot be read.
    pub fn check(
        &self,
        layers: Option<&[Digest]>,
        cancel: &CancelToken,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Checked, StoreError> {
        let _paused = self.hold_off_collection()?;
        let digits: &[u8] = if layers.is_some() { &[] } else { ObjectName::DIGITS };
        let digests: Vec<Digest> = match layers {
            Some(layers) => layers.to_vec(),
            None => self.named_layers()?,
        };
        let total = digits.len() + digests.len();
        let mut checked = Checked { layers: digests.len() as u64, ..Checked::default() };
        for (done, digit) in digits.iter().enumerate() {
            progress(done, total);
            let request = Request::CheckObjects { digit: *digit };
            let objects: CheckedObjects = self.shared.client.call_until(request, cancel)?;
            checked.objects += objects.count;
            checked.damaged_objects.extend(objects.damaged);
        }
        if layers.is_none() {
            let packages: CheckedPackages = self.shared.client.call_until(Request::CheckPackages, cancel)?;
            (checked.packages, checked.damaged_descriptions) = (packages.count, packages.damaged);
        }
        let records = self.shared.index.layers()?;
        for (done, digest) in digests.into_iter().enumerate() {
            progress(digits.len() + done, total);
            let problems: Vec<String> = self.shared.client.call_until(Request::Check { digest }, cancel)?;
            if !problems.is_empty() {
                let record = records.iter().find(|record| record.digests().bottom_up().contains(&digest));
                let title = record.map(|record| record.title.clone());
                checked.damages.push(Damage { digest, title, problems, outcome: Outcome::Stays });
            }
        }
        Ok(checked)
    }

    /// Mends what a check found: makes views again, and forgets what cannot be made. What other processes use stays.
    /// `waiting` is called when other processes have to come to a point where this can begin.
    ///
    /// # Errors
    /// When cancelled while waiting, or something cannot be read or written.
    pub fn repair(&self, checked: &mut Checked, cancel: &CancelToken, waiting: &dyn Fn()) -> Result<(), StoreError> {
        let _alone = self.stop_others(cancel, waiting)?;
        let used = self.shared.session.others(self.layout())?.layers;
        let mut idle = Vec::new();
        for damage in &mut checked.damages {
            if used.contains(&damage.digest) {
                damage.outcome = Outcome::InUse;
            } else {
                // Before anything is given up: one layer may have what another one lacks.
                self.shared.client.call::<()>(Request::Salvage { digest: damage.digest })?;
                idle.push(damage);
            }
        }
        let mut lost = HashSet::new();
        for damage in idle {
            damage.outcome = match self.shared.client.call(Request::Repair { digest: damage.digest })? {
                Repaired::Restored => Outcome::Restored,
                Repaired::Lost => {
                    lost.insert(damage.digest);
                    Outcome::Forgotten
                }
            };
        }
        self.forget_layers(&lost)?;
        if !checked.damages.iter().any(|damage| damage.outcome == Outcome::InUse) {
            let digits = checked.damaged_objects.iter().filter_map(|path| digit(path)).collect::<HashSet<u8>>();
            for digit in digits {
                self.shared.client.call::<()>(Request::SetAside { digit })?;
            }
            checked.objects_are_aside = true;
        }
        // Nobody installs now. What names an object that went is of no use any more either.
        self.shared.client.call::<()>(Request::SetPackagesAside)?;
        checked.descriptions_are_aside = true;
        Ok(())
    }

    /// Layers that are published, and those of images.
    fn named_layers(&self) -> Result<Vec<Digest>, StoreError> {
        let mut digests: Vec<Digest> =
            self.list_images()?.into_iter().flat_map(|image| image.layers.bottom_up().to_vec()).collect();
        digests.extend(self.published_trees()?);
        digests.sort_unstable_by_key(Digest::hex);
        digests.dedup();
        Ok(digests)
    }

    fn forget_layers(&self, lost: &HashSet<Digest>) -> Result<(), StoreError> {
        let images = self.list_images()?;
        let images = images.iter().filter(|image| image.layers.bottom_up().iter().any(|layer| lost.contains(layer)));
        let ids: Vec<&str> = images.map(|image| &*image.id).collect();
        let is_lost = |record: &LayerRecord| record.digests().bottom_up().iter().any(|layer| lost.contains(layer));
        let layers: Vec<LayerRecord> = self.shared.index.layers()?.into_iter().filter(is_lost).collect();
        self.shared.index.forget(&ids, &layers)
    }
}

/// The digit that an object's directory is named by.
fn digit(path: &std::path::Path) -> Option<u8> {
    path.parent()?.file_name()?.to_str()?.bytes().next()
}
