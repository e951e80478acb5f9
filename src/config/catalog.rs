//! The names of the catalog.

use super::{Error, Reader};

impl Reader<'_> {
    /// Its own name, then the others (`catalog.embedded.aliases`).
    pub(super) fn catalog_names(&self) -> Result<Vec<String>, Error> {
        let mut names = vec!["floe".to_owned()];
        let key = "catalog.embedded.aliases";
        for name in self.settings.get(key).into_iter().flatten() {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            if name.is_empty() || !name.bytes().all(legal) {
                let allowed = "allowed are letters, digits, _ and -";
                return Err(Error(format!("{key} = {name:?} is refused: {allowed}")));
            }
            names.push(name.clone());
        }
        Ok(names)
    }
}
