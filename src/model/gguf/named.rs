//! Things by name, in the order of the file.
//!
//! A file of a few megabytes can name 65,536 keys and as many tensors. Two vectors that are allocated once hold them in
//! half of what a map's nodes take: the bound on memory is kept by counting bytes.

/// Things that have names, each name once.
pub(super) struct Named<T> {
    entries: Vec<(Box<str>, T)>,
    /// Places in `entries`, ordered by name.
    by_name: Vec<u32>,
}

impl<T> Named<T> {
    /// The entries, ready to be searched.
    pub(super) fn new(entries: Vec<(Box<str>, T)>) -> Self {
        let mut by_name: Vec<u32> = (0..entries.len()).filter_map(|place| u32::try_from(place).ok()).collect();
        by_name.sort_unstable_by_key(|&place| (name(&entries, place), place));
        Self { entries, by_name }
    }

    /// The later of two that share a name.
    pub(super) fn twice(&self) -> Option<&(Box<str>, T)> {
        self.by_name.windows(2).find_map(|pair| match *pair {
            [first, second] if name(&self.entries, first) == name(&self.entries, second) => {
                self.entries.get(second as usize)
            }
            _ => None,
        })
    }

    pub(super) fn get(&self, wanted: &str) -> Option<&T> {
        let found = self.by_name.binary_search_by_key(&wanted, |&place| name(&self.entries, place)).ok()?;
        self.entries.get(*self.by_name.get(found)? as usize).map(|(_, entry)| entry)
    }

    /// In the order of the file.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|(name, entry)| (name.as_ref(), entry))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut T)> {
        self.entries.iter_mut().map(|(name, entry)| (&**name, entry))
    }
}

fn name<T>(entries: &[(Box<str>, T)], place: u32) -> &str {
    entries.get(place as usize).map_or("", |(name, _)| name)
}
