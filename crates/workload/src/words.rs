//! The vocabulary of synthetic prompts.

/// Two hundred and fifty-six English words of three letters, each followed by a space.
///
/// A word with its space is [`types::quantity::BYTES_PER_TOKEN`] bytes, and every one of them is a
/// single token of OpenAI's `cl100k_base` and `o200k_base` vocabularies (checked with gpt-tokenizer:
/// 6,000 random words encode to 6,001 tokens; Llama 3's and Qwen's vocabularies extend the first). So
/// a prompt of n words counts n tokens by the estimate and by a real engine alike.
pub(crate) const WORDS: &str = "\
ace act add age ago aid aim air all and ant any ape arc are arm \
art ash ask ate bad bag ban bar bat bay bed bee beg bet bid big \
bin bit bog bow box boy bud bug bus but buy cab can cap car cat \
cod cog cop cot cow cry cup cut dad dam day den dew did dig dim \
dip dog dot dry due dug dye ear eat egg ego elm end era eve eye \
fan far fax fed fee few fig fin fir fit fix fly fog for fox fry \
fun fur gap gas gem get got guy gym had ham has hat hay her him \
hip his hit hog hop hot how hug ice ill ink inn its jam jar jet \
job jog joy jug key kid kin kit lab law lay led leg let lid lie \
lit log lot low man map mat may men met mid mix net new nor not \
now nut oak oat odd off oil old one opt ore our out own pad pan \
par pat paw pay pen per pet pie pin pit pop pot pro pub put rag \
ran rap rat raw ray red rid row rub rug run sad sat saw say sea \
see set sew she shy sip sir sit six ski sky son spa sum sun tab \
tag tan tap tar tax tea ten the tie tin tip toe ton too top toy \
try two use vet was way web wet who why win won yes yet you zip \
";
