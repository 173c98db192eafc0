//! What a layer changes over its parent.
