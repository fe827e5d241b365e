"""Make ``dgn/evaluation/kinds.json``: what people call each ImageNet class, and the kind of thing that it is.

Usage: python benchmarks/kinds.py [data.noun of WordNet 3.0, e.g. of Debian's wordnet-base]

A class gets the first kind below among whose synsets it lies (WordNet's hypernyms); its names are the words of its own
synset; those of the synsets between it and its kind stand apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from timm.data import ImageNetInfo

KINDS = {
    # kind: (what else people say, WordNet synsets)
    "dog": (
        "puppy, hound, labrador, retriever, poodle, terrier, spaniel, collie, husky, bulldog, shepherd, mastiff",
        2084071,
    ),
    "wolf or fox": ("wolf, fox, coyote, dingo, jackal, wild dog", 2114100, 2118333, 2115096, 2083346),
    "cat": ("kitten, house cat", 2121808),
    "big cat": ("lion, tiger, leopard, wild cat, feline", 2120997),
    "bear": ("", 2131653),
    "monkey": ("ape, primate, chimpanzee, lemur", 2469914),
    "horse": ("zebra, donkey, pony", 2374149),
    "cattle": ("cow, bull, ox, buffalo, goat, sheep, ram, antelope, deer, ibex", 2399000),
    "pig": ("boar, hog", 2395003),
    "elephant": ("", 2503517),
    "rabbit": ("hare, bunny", 2324045),
    "rodent": ("mouse, rat, hamster, squirrel, beaver, marmot", 2329401),
    "seal or whale": ("seal, sea lion, whale, dolphin, dugong", 2062017, 2075927),
    "weasel": ("otter, badger, mink, skunk, ferret", 2441326),
    "other mammal": ("animal, mammal, panda, hippo, camel, kangaroo, koala, sloth, armadillo, llama", 1861778),
    "bird": ("", 1503061),
    "snake": ("", 1726692),
    "turtle": ("tortoise", 1662784),
    "crocodile": ("alligator, reptile", 1696633),
    "lizard": ("gecko, iguana, chameleon, dinosaur, reptile", 1674464, 1661091),
    "frog": ("toad", 1639765),
    "salamander": ("newt, amphibian, lizard", 1627424),
    "fish": ("shark, ray", 2512053),
    "spider": ("tarantula, scorpion, tick, arachnid", 1769347),
    "butterfly": ("moth", 2274259),
    "insect": ("bug, beetle, fly, bee, ant, grasshopper, dragonfly", 2159955),
    "crab": ("lobster, crayfish, shrimp, crustacean", 1974773),
    "shell or snail": ("snail, slug, shell, mollusc", 1940736),
    "sea animal": ("coral, jellyfish, starfish, sea urchin, anemone, worm, invertebrate, sea creature", 1905661),
    "fungus": ("mushroom", 12992868),
    "fruit": ("orange, lemon, apple, banana, berry", 7705931, 13134947),
    "vegetable": ("cabbage, pepper, cucumber, squash", 7707451),
    "flower": ("plant, blossom", 11669921, 17222),
    "dish of food": ("food, meal, dish, bread, cake, dessert, pizza, burger, sandwich, soup", 7555863, 21265, 7557434),
    "drink": ("coffee, wine, beverage", 7881800),
    "car": ("automobile, taxi, jeep, van, vehicle", 2958343, 4520170),
    "truck": ("lorry, van, vehicle, fire engine, tractor", 4490091, 4465501),
    "bus": ("coach, minibus, vehicle", 2924116, 4146614),
    "train": ("locomotive, tram, vehicle", 3684823, 4468005, 4335435),
    "bicycle": ("bike, motorcycle, scooter, moped, tricycle", 2834778, 3790512, 4482393, 3785016, 4126066),
    "aircraft": ("plane, airplane, airship, balloon, jet", 2686568, 3665924, 3666917),
    "boat": ("ship, yacht, canoe, watercraft", 4530566),
    "other vehicle": ("vehicle, cart, wagon, tank, sled", 4524313),
    "ball": ("", 2778669),
    "building": (
        "house, church, barn, palace, castle, tower, temple, shop, store",
        2913152,
        3297735,
        4460130,
        3953020,
        3719053,
    ),
    "bridge or dam": ("bridge, dam, pier, viaduct", 2898711, 3160309, 3933529),
    "fence or wall": ("fence, wall, gate, barrier", 2796623),
    "structure": ("building, monument, arch, fountain", 4341686),
    "mountain": ("volcano, cliff, valley, hill", 9287968, 9366317),
    "shore or water": ("beach, coast, lake, sea, reef, geyser", 9225146, 9433442),
    "musical instrument": ("guitar, violin, piano, drum, trumpet, flute, horn", 3800933),
    "clock": ("watch, timepiece, timer", 4437953),
    "computer": (
        "laptop, keyboard, screen, monitor, television, phone, printer, mouse",
        3082979,
        3278248,
        3279508,
        3620967,
        4401088,
        3085013,
        3793489,
    ),
    "camera or lens": ("camera, telescope, binoculars, projector", 2942699, 3841143, 3852280),
    "weapon": ("gun, rifle, sword, cannon, missile", 4565375),
    "hat": ("helmet, cap, headgear, wig", 3502509, 3513137, 4584207),
    "shoe": ("boot, sandal, sock, footwear", 3380867, 4254777, 3381126),
    "clothing": ("dress, coat, shirt, suit, garment, trousers, skirt", 3051540, 3419014, 3093574, 2963159, 3710637),
    "bag": ("purse, backpack, wallet", 2773037, 2774152, 2770078),
    "bottle": ("jar, flask, can", 2876657, 3593526),
    "cup or pot": (
        "cup, mug, bowl, pot, pan, vase, pitcher, plate",
        3147509,
        2881193,
        3990474,
        3438257,
        3101986,
        4531098,
    ),
    "box": ("basket, crate, bin, chest, bucket, container", 3094503),
    "furniture": ("chair, table, bed, sofa, desk, cabinet, seat", 3405725, 4161981, 3405265),
    "lamp": ("light, lantern, candle, torch", 3636649, 2948072),
    "kitchen appliance": ("oven, stove, toaster, refrigerator, washing machine, appliance", 2729837),
    "tool": ("hammer, screwdriver, knife, saw, utensil, spoon", 4451818, 4516672, 3563967),
    "fabric": ("cloth, towel, curtain, rug, quilt, blanket", 3309808, 3932670, 3151077, 2820556),
    "machine": ("device, gadget, engine", 3699975, 3183080),
    "sports equipment": ("dumbbell, racket, ski, skateboard", 3414162, 4285146),
    "person": ("man, woman, player, diver", 7846),
    "other thing": ("", 1740),
}


class WordNet:
    """Synsets of ``data.noun``, by their offset."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()

    def synset(self, offset: int) -> tuple[list[str], list[int]]:
        """Its words, and the synsets above it."""
        line = self.data[offset : self.data.index(b"\n", offset)].decode()
        cells = line.split(" | ")[0].split()
        words = int(cells[3], 16)
        rest = cells[4 + 2 * words :]
        links = [rest[1 + 4 * link : 5 + 4 * link] for link in range(int(rest[0]))]
        above = [int(offset) for sign, offset, part, _ in links if sign in ("@", "@i") and part == "n"]
        return [cells[4 + 2 * word].replace("_", " ") for word in range(words)], above

    def paths(self, offset: int) -> list[list[int]]:
        """All ways up from a synset, itself first."""
        above = self.synset(offset)[1]
        return [[offset, *path] for one in above for path in self.paths(one)] if above else [[offset]]


def main(path: Path) -> None:
    """Write the file."""
    net = WordNet(path)
    roots = {offset: kind for kind, (_, *offsets) in KINDS.items() for offset in offsets}
    classes = []
    for wnid in ImageNetInfo().label_names():
        best: tuple[int, list[int]] | None = None
        for way in net.paths(int(wnid[1:])):
            for place, offset in enumerate(way):
                if offset in roots:  # the nearest kind above it
                    if best is None or (place if roots[offset] != "other thing" else 99) < best[0]:
                        best = (place if roots[offset] != "other thing" else 99, way[: place + 1])
                    break
        assert best is not None
        way = best[1]
        kind = roots[way[-1]]
        names, above = (
            list(dict.fromkeys(word.lower() for offset in part for word in net.synset(offset)[0]))
            for part in (way[:1], [] if kind.startswith("other") else way[1:])
        )
        classes.append({"kind": kind, "names": names, "above": above})
    kinds = {kind: [word for word in said.split(", ") if word] for kind, (said, *_) in KINDS.items()}
    text = json.dumps({"source": "WordNet 3.0 (Princeton University)", "kinds": kinds, "classes": classes}, indent=0)
    Path("dgn/evaluation/kinds.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/wordnet/data.noun"))
