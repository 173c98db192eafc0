//! Which images go and which layers stay. Pure: what is in use and how late it is comes from outside.

use std::collections::HashSet;
use std::time::Duration;

use lamina_ground::Stack;
use lamina_image::{Digest, LayerKey};

use super::sizes::Sizes;
use crate::{ImageRecord, LayerRecord};

/// What is to be collected. Images that running processes use always stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Exactly these images, and nothing that others need; ages do not count then.
    pub ids: Vec<String>,
    /// What was not used for so long.
    pub unused_for: Option<Duration>,
    /// What was made so long ago. With `unused_for`, both have to hold.
    pub older_than: Option<Duration>,
    /// The images that were not used for longest, until the store has at most so many bytes.
    pub maximum_bytes: Option<u64>,
    /// Where it is given, nothing but these images goes, whatever else the rules say: what the user has agreed to.
    pub among: Option<Vec<String>>,
    /// Collects nothing, only says what would be.
    pub dry_run: bool,
}

impl Policy {
    /// What was last used or made before this time has served its time, in seconds since 1970.
    pub(super) fn cutoff(&self, now: i64) -> Option<i64> {
        let age = if self.ids.is_empty() { self.unused_for.max(self.older_than) } else { None };
        age.map(|age| now.saturating_sub_unsigned(age.as_secs()))
    }

    /// Whether the image is one of those that may go.
    fn concerns(&self, image: &ImageRecord) -> bool {
        self.among.as_ref().is_none_or(|among| among.contains(&image.id))
    }

    fn has_expired(&self, image: &ImageRecord, now: i64) -> bool {
        if !self.concerns(image) {
            return false;
        }
        if !self.ids.is_empty() {
            return self.ids.contains(&image.id);
        }
        // A time in the future, from before the clock was set back, is now.
        let is_past = |time: u64, age: Duration| now.cast_unsigned().saturating_sub(time) >= age.as_secs();
        let rules = [(image.last_used, self.unused_for), (image.created, self.older_than)];
        rules.iter().any(|(_, age)| age.is_some())
            && rules.iter().all(|(time, age)| age.is_none_or(|age| is_past(*time, age)))
    }
}

/// What a collection will do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Images that go.
    pub(super) images: Vec<ImageRecord>,
    /// Images that would go if nobody used them.
    pub(super) used: Vec<ImageRecord>,
    /// Layers that go.
    pub(super) layers: Vec<LayerRecord>,
    /// Trees and views that stay.
    pub(super) live: HashSet<Digest>,
}

/// Everything that a plan is made from.
pub(super) struct Facts<'a> {
    /// All images, last used first.
    pub(super) images: &'a [ImageRecord],
    /// All layers.
    pub(super) layers: &'a [LayerRecord],
    /// Layers that running processes use, and views that local files will be compared with.
    pub(super) held: &'a HashSet<Digest>,
    /// What no image names and was made before this time goes, in seconds since 1970.
    pub(super) cutoff: Option<i64>,
    /// Ids of images that have names: they stay unless the policy names them.
    pub(super) named: &'a HashSet<String>,
    /// Seconds since 1970.
    pub(super) now: i64,
}

/// Applies the policy. `sizes` is only asked where there is a limit; `overhead` are the bytes that no image has a part in.
pub(super) fn plan(facts: &Facts<'_>, policy: &Policy, sizes: &mut Sizes<'_>, overhead: u64) -> Plan {
    let mut plan = Plan::default();
    let mut staying: Vec<&ImageRecord> = Vec::new();
    for image in facts.images {
        let has_expired = policy.has_expired(image, facts.now) && !is_kept(image, facts, policy);
        match (has_expired, is_used(image, facts.held)) {
            (true, false) => plan.images.push(image.clone()),
            (true, true) => {
                plan.used.push(image.clone());
                staying.push(image);
            }
            (false, _) => staying.push(image),
        }
    }
    if let Some(maximum) = policy.maximum_bytes {
        shrink(facts, policy, &mut staying, &mut plan, sizes, maximum.saturating_sub(overhead));
    }
    settle_layers(facts, &staying, &mut plan);
    plan
}

/// Lets images go, the one that was not used for longest first, until the others fit.
fn shrink(
    facts: &Facts<'_>,
    policy: &Policy,
    staying: &mut Vec<&ImageRecord>,
    plan: &mut Plan,
    sizes: &mut Sizes<'_>,
    maximum: u64,
) {
    for layer in facts.held.iter().chain(staying.iter().flat_map(|image| image.layers.bottom_up())) {
        sizes.add(layer);
    }
    let mut kept = Vec::new();
    while let Some(image) = staying.pop() {
        if sizes.total() <= maximum || !policy.concerns(image) || is_kept(image, facts, policy) {
            kept.push(image);
        } else if is_used(image, facts.held) {
            plan.used.push(image.clone());
            kept.push(image);
        } else {
            for layer in image.layers.bottom_up() {
                sizes.remove(layer);
            }
            plan.images.push(image.clone());
        }
    }
    kept.reverse();
    *staying = kept;
}

/// Whether an image stays because it has a name.
fn is_kept(image: &ImageRecord, facts: &Facts<'_>, policy: &Policy) -> bool {
    policy.ids.is_empty() && facts.named.contains(&image.id)
}

/// An image is used when all of its layers are: processes hold every layer of the images that they run.
fn is_used(image: &ImageRecord, held: &HashSet<Digest>) -> bool {
    !image.layers.is_empty() && image.layers.bottom_up().iter().all(|layer| held.contains(layer))
}

/// Decides which layers stay: those of images that stay, those in use, and those that no image has had a use for yet.
fn settle_layers(facts: &Facts<'_>, staying: &[&ImageRecord], plan: &mut Plan) {
    let keys = |images: &mut dyn Iterator<Item = &ImageRecord>| -> HashSet<LayerKey> {
        images.flat_map(|image| image.keys.clone()).collect()
    };
    let kept_keys = keys(&mut staying.iter().copied());
    let known_keys = keys(&mut facts.images.iter());
    let beginnings: HashSet<&[Digest]> =
        staying.iter().flat_map(|image| beginnings(image.layers.bottom_up())).collect();
    plan.live.clone_from(facts.held);
    plan.live.extend(staying.iter().flat_map(|image| image.layers.bottom_up()));
    for layer in facts.layers {
        let stays = match companion_of(layer) {
            Some(image) => beginnings.contains(image.bottom_up()),
            None if known_keys.contains(&layer.key) => kept_keys.contains(&layer.key),
            None => facts.cutoff.is_none_or(|cutoff| layer.created.cast_signed() >= cutoff),
        };
        let digests = layer.digests();
        if stays || digests.bottom_up().iter().all(|digest| plan.live.contains(digest)) {
            plan.live.extend(digests.bottom_up());
        } else {
            plan.layers.push(layer.clone());
        }
    }
}

/// The lowest layer of these, the two lowest, and so on up to all of them.
fn beginnings(layers: &[Digest]) -> impl Iterator<Item = &[Digest]> {
    (1..=layers.len()).map(|count| &layers[..count])
}

/// The layers of the image that a layer was made for without being one of them. Records that have no field for that are
/// of no kind of step then, and name the layers in their key material.
fn companion_of(layer: &LayerRecord) -> Option<Stack<Digest>> {
    if layer.companion_of.is_some() || layer.material.get("kind").is_some() {
        return layer.companion_of.clone();
    }
    let image = layer.material.get("image")?.as_array()?;
    let digests: Option<Vec<Digest>> = image.iter().map(|digest| digest.as_str()?.parse().ok()).collect();
    digests.map(Stack::from_bottom_up)
}

#[cfg(test)]
mod tests;
