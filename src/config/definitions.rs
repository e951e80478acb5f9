//! The file that says which topics, sinks, sources and streams there are: its form. `floe apply` sends it to a
//! running server, `definitions.file` gives it to one that starts.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::{Error, Reader};

/// Largest file, in bytes.
pub const FILE_BYTES_MAX: u64 = 2 << 20;

/// A file that a server starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionsFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it does not have is deleted at the start.
    pub prune: bool,
}

impl Reader<'_> {
    /// The file, if one is named.
    pub(super) fn definitions(&self) -> Result<Option<DefinitionsFile>, Error> {
        let prune = self.flag("definitions.prune")?;
        let path = self.optional_text("definitions.file").map(PathBuf::from);
        if prune && path.is_none() {
            return Err(Error("definitions.prune = true needs definitions.file".to_owned()));
        }
        Ok(path.map(|path| DefinitionsFile { path, prune }))
    }
}

/// What a file may say.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// Topics by name.
    #[serde(default)]
    pub topics: BTreeMap<String, DeclaredTopic>,
    /// Sources by id, as `PUT /api/v1/sources/{source}` takes them.
    #[serde(default)]
    pub sources: BTreeMap<String, Value>,
    /// Streams by name, as `PUT /api/v1/streams/{stream}` takes them; none says nothing of them.
    pub streams: Option<BTreeMap<String, Value>>,
}

/// What a file may say of a topic.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredTopic {
    /// How many there are; none leaves it to the server.
    pub partitions: Option<i32>,
    /// Plain values by key.
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
    /// Sinks by id, as `PUT /api/v1/topics/{topic}/sinks/{sink}` takes them.
    #[serde(default)]
    pub sinks: BTreeMap<String, Value>,
}

impl Declared {
    /// Reads the text of the file `path`: JSON if its name ends so or is `-`, else TOML.
    ///
    /// # Errors
    /// [`Error`] names the file and what is wrong with it.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, Error> {
        let failed = |error: &dyn Display| Error(format!("{path}: {error}"));
        let ending = path.rsplit_once('.').map(|(_, ending)| ending);
        if path == "-" || ending.is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
            return serde_json::from_slice(bytes).map_err(|error| failed(&error));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| failed(&error))?;
        toml::from_str(text).map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Config;
    use super::*;

    #[test]
    fn nothing_is_deleted_by_a_file_that_nobody_named() {
        let resolve = |pairs: &[(&str, &str)]| {
            let given =
                pairs.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()]));
            Config::resolve(&given.collect(), &[]).map(|config| config.definitions)
        };
        let (prune, file) = (("definitions.prune", "true"), ("definitions.file", "a.toml"));
        assert!(resolve(&[prune]).unwrap_err().0.contains("definitions.file"));
        assert!(resolve(&[prune, file]).unwrap().unwrap().prune);
        assert_eq!(resolve(&[("definitions.prune", "false")]), Ok(None));
    }

    #[test]
    fn a_file_is_toml_or_json_and_has_nothing_else() {
        let toml = "[topics.shop]\npartitions = 3\noptions = { \"table.mode\" = \"off\" }\n\
                    [topics.shop.sinks.prices]\ntable = { name = \"prices\" }\n\
                    mapping.columns = [{ type = \"uuid\", name = \"id\" }]\n[sources.shop]\n";
        let declared = Declared::parse("a.toml", toml.as_bytes()).unwrap();
        let shop = &declared.topics["shop"];
        assert_eq!((shop.partitions, &shop.options["table.mode"]), (Some(3), &json!("off")));
        assert_eq!(shop.sinks["prices"]["mapping"]["columns"][0]["type"], "uuid");
        assert_eq!(declared.sources["shop"], json!({}));
        assert!(Declared::parse("a.JSON", br#"{"sources": {"a": {}}}"#).is_ok());
        for (path, text) in [
            ("a.json", &br#"{"source": {}}"#[..]),
            ("a", b"[topics.x]\ncolour = 1"),
            ("a", b"\xff"),
        ] {
            let error = Declared::parse(path, text).unwrap_err().0;
            assert!(error.starts_with(&format!("{path}: ")), "{error}");
        }
    }
}
