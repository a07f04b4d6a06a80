//! Ids and their unambiguous prefixes.

/// What all ids of sandboxes start with. It may be left out of a prefix.
const OF_SANDBOXES: &str = "sandbox-";

/// The item that `id` means: the one with this id, or else the only one whose id starts with it.
/// Otherwise returns all that it may mean.
pub(crate) fn unambiguous<T>(
    all: Vec<T>,
    id: &str,
    id_of: impl Fn(&T) -> &str,
) -> Result<T, Vec<T>> {
    let starts = |it: &T| {
        let whole = id_of(it);
        let short = whole.strip_prefix(OF_SANDBOXES).unwrap_or(whole);
        !id.is_empty() && (whole.starts_with(id) || short.starts_with(id))
    };
    let mut found: Vec<T> = all.into_iter().filter(starts).collect();
    if found.iter().any(|it| id_of(it) == id) {
        found.retain(|it| id_of(it) == id);
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        _ => Err(found),
    }
}
