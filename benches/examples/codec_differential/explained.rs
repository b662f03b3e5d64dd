//! Why the codecs disagree, class by class.

use quelea_mqtt::Version;

use crate::{Class, Difference};

/// Who is right, and by which rule; `None` if nobody has looked at the class yet.
pub(crate) fn explain(class: &Class) -> Option<&'static str> {
    match &class.difference {
        Difference::OnlyWeRefuse(why) => only_we_refuse(class, why),
        Difference::OnlyFlowsdkRefuses(why) => only_flowsdk_refuses(class, why),
        Difference::BadFilter => Some(
            "by design: the standards answer a bad filter in its place in SUBACK or UNSUBACK (0x8F, 0x80); our decoder \
             hands it out as an error beside its good neighbours, flowsdk refuses the packet",
        ),
        Difference::WeRefuseEarlier(why) => we_refuse_earlier(why),
        Difference::FlowsdkRefusesEarlier(why) => flowsdk_refuses_earlier(class, why),
        Difference::FlowsdkWaitsForMoreOfAWhole => Some(
            "ours: the packet is whole by its remaining length and a property section in it is cut short, which is \
             malformed; flowsdk takes this for a packet that has not arrived yet and would wait for ever",
        ),
        Difference::FlowsdkWritesWhatWeRefuse(why) => flowsdk_writes(class, why),
        Difference::FlowsdkCannotWrite(_)
        | Difference::MeaningDiffers
        | Difference::LengthDiffers
        | Difference::FlowsdkPanics => None,
    }
}

fn only_we_refuse(class: &Class, why: &str) -> Option<&'static str> {
    Some(match (class.packet, class.version, class.from_client, why) {
        (_, _, _, "WrongSender, packet type") => {
            "ours: this side never sends this packet; flowsdk is not told which side sent it"
        }
        ("AUTH", Version::V5, _, "Missing, authentication method") => {
            "ours: AUTH with a property section must name the method (§3.15.2.2.2); flowsdk does not look"
        }
        ("CONNACK", Version::V5, false, "Missing, authentication method") => {
            "ours: authentication data needs a method (§3.2.2.3.17); flowsdk looks in CONNECT only"
        }
        ("AUTH", Version::V5, _, "ReasonNotAllowed, reason code") => {
            "ours: 0x00 is the server's and 0x19 the client's (§3.15.2.1); flowsdk is not told which side sent it"
        }
        ("DISCONNECT", Version::V5, _, "ReasonNotAllowed, reason code") => {
            "ours: the reason is the other side's (table in §3.14.2.1); flowsdk is not told which side sent it"
        }
        ("PUBACK" | "PUBREC", Version::V5, true, "ReasonNotAllowed, reason code") => {
            "ours: 0x10 is sent only by the server (§3.4.2.1, §3.5.2.1); flowsdk is not told which side sent it"
        }
        ("PUBLISH", Version::V5, true, "Forbidden, subscription identifier") => {
            "ours: a client never sends one in PUBLISH [MQTT-3.3.4-6]; flowsdk is not told which side sent it"
        }
        ("DISCONNECT", Version::V5, false, "Forbidden, session expiry interval") => {
            "ours: a server never sends it [MQTT-3.14.2-2]; flowsdk is not told which side sent it"
        }
        ("CONNACK", Version::V31, false, "ReservedBits, connect acknowledge flags") => {
            "ours: 3.1 has no session present, the byte is reserved; flowsdk reads 3.1 as 3.1.1"
        }
        ("CONNECT", _, true, "UnsupportedProtocol, protocol name and version") => {
            "ours: name and level are not a pair of the standards [MQTT-3.1.2-1], [MQTT-3.1.2-2]; flowsdk hands any name \
             or level on to its caller"
        }
        (_, _, _, "TooMany, user property") => "ours: a limit of the receiver; flowsdk has none",
        _ => return None,
    })
}

fn only_flowsdk_refuses(class: &Class, why: &str) -> Option<&'static str> {
    Some(match (class.packet, class.version, why) {
        ("CONNACK", Version::V5, "Parse Error: Assigned Client Identifier cannot be empty") => {
            "ours: useless, but no statement forbids it, so it is the client's to judge; flowsdk adds a rule"
        }
        ("CONNECT", Version::V5, "Parse Error: Username cannot be empty")
        | ("CONNECT", Version::V5, "Parse Error: Password cannot be empty") => {
            "ours: a string and binary data may be empty (§1.5.4, §1.5.6), so may user name and password; flowsdk adds a \
             rule"
        }
        ("CONNECT", Version::V5, "Parse Error: Will topic or message cannot be empty") => {
            "ours: a will may have an empty payload, as a PUBLISH may (§3.1.3.4); flowsdk adds a rule. An empty will topic \
             both refuse"
        }
        ("CONNECT", Version::V31, "Buffer Too Short") => {
            "ours: in 3.1 the remaining length overrules the flags for user name and password, which may be announced and \
             missing; flowsdk reads 3.1 as 3.1.1"
        }
        ("PUBREL" | "SUBSCRIBE" | "UNSUBSCRIBE", Version::V31, why) if why.contains("fixed header flags") => {
            "ours: 3.1 lets these be sent again with DUP set; flowsdk reads 3.1 as 3.1.1"
        }
        ("PUBREL", Version::V31, why) if why.contains("Invalid PUBREL flags") => {
            "ours: 3.1 lets these be sent again with DUP set; flowsdk reads 3.1 as 3.1.1"
        }
        ("DISCONNECT", Version::V5, "Parse Error: Invalid reason code for packet type")
            if !class.from_client =>
        {
            "ours: §2.4 lists 0x8C for DISCONNECT, the table in §3.14.2.1 does not; we take it from a server, whose client \
             has offered another method in re-authentication"
        }
        _ => return None,
    })
}

fn we_refuse_earlier(why: &str) -> Option<&'static str> {
    Some(match why {
        "Flags, fixed header" | "WrongSender, packet type" | "VarIntTooLong, remaining length" => {
            "by design: the first byte or the length shows it, nothing has to be waited for; flowsdk would say so later \
             (or, for the direction, never: it is not told which side sent it)"
        }
        "VarIntNotMinimal, remaining length" => {
            "by design: the length shows it, nothing has to be waited for"
        }
        "PacketTooLarge, remaining length" => {
            "by design: our limit of 1 MiB is checked before any of the body is kept; flowsdk has no limit and waits"
        }
        _ => return None,
    })
}

fn flowsdk_refuses_earlier(class: &Class, why: &str) -> Option<&'static str> {
    Some(match (class.packet, why) {
        (_, "Buffer Too Short") => {
            "ours: a fixed header of one byte is a packet that has not arrived yet; flowsdk's parsers call it an error and \
             leave it to their stream layer to keep it from them"
        }
        ("AUTH", "Invalid Packet Type") if class.version < Version::V5 => {
            "same verdict, later: only `decode` knows the version, and refuses AUTH in 3.x once the packet is whole"
        }
        ("PUBREL" | "SUBSCRIBE" | "UNSUBSCRIBE", why) if why.contains("flags") => {
            "same verdict, later: `peek_frame` does not know the version and 3.1 allows DUP here; `decode` refuses it in \
             3.1.1 and 5.0 once the packet is whole"
        }
        _ => return None,
    })
}

fn flowsdk_writes(class: &Class, why: &str) -> Option<&'static str> {
    match (class.packet, class.version, why) {
        ("AUTH", Version::V5, "Missing, authentication method") => Some(
            "ours: the AUTH without a body means success (§3.15.2.1) and we write it so; flowsdk reads it and writes it with \
             an empty property section, which must name a method (§3.15.2.2.2)",
        ),
        _ => None,
    }
}
