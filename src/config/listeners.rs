//! Kafka listeners: where each binds, and what its clients are told (rules 8.1).

use std::collections::BTreeMap;

use super::{Error, KafkaListener, Reader, units};

impl Reader<'_> {
    pub(super) fn kafka_listeners(&self) -> Result<Vec<KafkaListener>, Error> {
        let key = "kafka.listen";
        let default = vec![self.text(key)];
        let given = self.settings.get(key).filter(|values| !values.is_empty()).unwrap_or(&default);
        let mut advertised = BTreeMap::new();
        for value in self.settings.get("kafka.advertise").into_iter().flatten() {
            let (name, address) = named(value);
            let pair = units::parse_host_port(address).map_err(|allowed| {
                Error(format!("kafka.advertise = {value:?} is refused: {allowed}"))
            })?;
            if advertised.insert(name.to_owned(), pair).is_some() {
                return Err(Error(format!(
                    "kafka.advertise = {value:?} is refused: {name:?} has an address already"
                )));
            }
        }
        let mut listeners: Vec<KafkaListener> = Vec::new();
        for value in given {
            let (name, address) = named(value);
            if name.is_empty() {
                return Err(Error(format!(
                    "{key} = {value:?} is refused: the name before = is empty"
                )));
            }
            let bind = units::parse_address(address)
                .map_err(|allowed| Error(format!("{key} = {value:?} is refused: {allowed}")))?;
            if listeners.iter().any(|listener| listener.name == name) {
                return Err(Error(format!(
                    "{key} = {value:?} is refused: two listeners are named {name:?}; \
                     give each a name: NAME=ADDRESS"
                )));
            }
            let advertise = advertised.remove(name);
            listeners.push(KafkaListener { name: name.to_owned(), bind, advertise });
        }
        if let Some((name, _)) = advertised.first_key_value() {
            let names: Vec<&str> = listeners.iter().map(|one| one.name.as_str()).collect();
            return Err(Error(format!(
                "kafka.advertise names {name:?}, but no listener has that name: it must be \
                 NAME=HOST:PORT, the names are {}",
                names.join(", ")
            )));
        }
        Ok(listeners)
    }
}

/// Splits `NAME=ADDRESS`; without a name it is `default`.
fn named(value: &str) -> (&str, &str) {
    value.split_once('=').unwrap_or(("default", value))
}
