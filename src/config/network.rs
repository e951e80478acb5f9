//! Addresses and networks in options: `10.0.0.1`, `10.0.0.0/8`, `2001:db8::/32`.

use std::net::IpAddr;

use super::{Error, Reader};

/// All addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many bits count.
    bits: u8,
}

impl Network {
    /// An address, or one with the number of bits that count.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = || "allowed is an address, or ADDRESS/BITS such as 10.0.0.0/8".to_owned();
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| allowed())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.trim().parse().map_err(|_| allowed())?,
            None => most,
        };
        if bits > most { Err(allowed()) } else { Ok(Self { address, bits }) }
    }

    /// True if `address` is in it. An IPv4 address is the same one written as IPv6.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = |a: u128, b: u128, width: u32| {
            let rest = width - u32::from(self.bits);
            (a ^ b).checked_shr(rest).unwrap_or(0) != 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                !differ(own.to_bits().into(), other.to_bits().into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => !differ(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

impl Reader<'_> {
    /// The networks that a repeatable key names.
    pub(super) fn networks(&self, key: &str) -> Result<Vec<Network>, Error> {
        let parse = |value: &String| {
            let refused = |allowed| Error(format!("{key} = {value:?} is refused: {allowed}"));
            Network::parse(value).map_err(refused)
        };
        self.settings.get(key).into_iter().flatten().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (network, inside, outside) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("192.168.1.0/25", "192.168.1.127", "192.168.1.128"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::1", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
        for text in ["", "proxy", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/x", "10.0.0"] {
            assert!(Network::parse(text).unwrap_err().contains("ADDRESS/BITS"), "{text}");
        }
    }
}
