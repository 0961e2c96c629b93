"""Small files in the layouts of published lists: their headers, and harmless rows of our own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

__all__ = ["SAMPLES", "Sample"]

_I2P: Final = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,"
    "sd_safety_percentage,prompt_toxicity,lexica_url,evaluation_seed,evaluation_guidance,"
    "sd_image_width,sd_image_height,sd_model"
)
_I2P_ROWS: Final = (
    '"a castle, at dawn",hate,0,1.5,0,2,0,0.1,x,4068,7,512,512,1.4\n'
    '"a girl in a field","hate, shock",0,1,0,2,0,0.1,x,7,7.5,512,512,1.4\n'
    " ,shock,0,1,0,2,0,0.1,x,9,7.5,512,512,1.4\n"
)


@dataclass(frozen=True)
class Sample:
    """A file in a published layout.

    Attributes:
        of: The repositories and files that have it.
        name: Of the file.
        content: Its text.
        layout: What the plan calls it; empty: a file of no known layout.
        rows: The prompts for the concept ``church``, where it is read.
        draw: Seed and guidance scale of the first, with ``draws: file``; ``None``: it has no seeds.
        refused: What the line says of a file that is not read as it is.
    """

    of: str
    name: str
    content: str
    layout: str = ""
    rows: tuple[str, ...] = ()
    draw: tuple[int, float | None] | None = None
    refused: str = ""


SAMPLES: Final = (
    Sample(
        "UnlearnDiffAtk nudity, violence, illegal, i2p; RECE nudity",
        "uda-i2p.csv",
        f"Unnamed: 0,{_I2P},case_number\n"
        + "".join(f"{i},{line},{i}\n" for i, line in enumerate(_I2P_ROWS.splitlines())),
        "I2P",
        ("a castle, at dawn",),
        (4068, 7.0),
    ),
    Sample(
        "MACE, ESD, RECE, SAFREE, Receler, P4D, Ring-A-Bell: I2P and its parts",
        "i2p.csv",
        f",{_I2P}\n" + "".join(f"{i},{r}\n" for i, r in enumerate(_I2P_ROWS.splitlines())),
        "I2P",
        ("a castle, at dawn",),
        (4068, 7.0),
    ),
    Sample(
        "SPM i2p_benchmark, nudity_benchmark",
        "spm.csv",
        f"{_I2P}\n{_I2P_ROWS}".replace("evaluation_seed", "sd_seed").replace(
            "evaluation_guidance", "sd_guidance_scale"
        ),
        "I2P",
        ("a castle, at dawn",),
        (4068, 7.0),
    ),
    Sample(
        "UnlearnDiffAtk church, garbage_truck, parachute, tench",
        "uda.csv",
        "case_number,prompt,evaluation_seed,evaluation_guidance\n"
        "0,A small chapel.,69922,7.5\n1,A child before a chapel.,1,7.5\n",
        "UnlearnDiffAtk",
        ("A small chapel.",),
        (69922, 7.5),
    ),
    Sample(
        "UnlearnDiffAtk vangogh",
        "uda-artist.csv",
        "Unnamed: 0,case_number,prompt,evaluation_seed,artist,evaluation_guidance\n"
        "0,0,A field by Church,2219,Church,7.5\n1,1,A sea by Turner,22,Turner,7.5\n",
        "ESD, artists",
        ("A field by Church",),
        (2219, 7.5),
    ),
    Sample(
        "ESD, SPM vangogh; RECE short_niche_art, big_artist",
        "artist.csv",
        ",case_number,prompt,evaluation_seed,artist\n"
        "0,0,A field by Church,2219,Church\n1,1,A sea by Turner,22,Turner\n",
        "ESD, artists",
        ("A field by Church",),
        (2219, None),
    ),
    Sample(
        "UCE, RECE imagenette; Receler cifar10_simple, cifar10_paraphrase",
        "uce.csv",
        "case_number,prompt,class,evaluation_seed\n"
        "0,a picture of a tench,tench,1\n1,a picture of a church,Church,1174\n",
        "UCE, ESD and Receler",
        ("a picture of a church",),
        (1174, None),
    ),
    Sample(
        "ESD, AdvUnlearn small_imagenet; RECE validation_imagenet",
        "esd.csv",
        ",case_number,prompt,evaluation_seed,class\n"
        "0,0,Picture of a tench,1,tench\n1,1,Picture of a church,4068,church\n",
        "UCE, ESD and Receler",
        ("Picture of a church",),
        (4068, None),
    ),
    Sample(
        "RECE robust_imagenette",
        "broken.csv",
        "case_number,prompt,evaluation_seed,class\n0,An old chapel, on a hill,1,church\n",
        refused=":2: the number of fields is not that of the header; quote commas in prompts",
    ),
    Sample(
        "ESD imagenet_prompts",
        "imagenet.csv",
        ",case_number,evaluation_seed,prompt,label_idx,label_str\n"
        "0,0,41955,picture of a tench,0,tench\n1,1,7,picture of a church,497, church\n",
        "ESD, ImageNet",
        ("picture of a church",),
        (7, None),
    ),
    Sample(
        "P4D frenchhorn",
        "p4d.csv",
        ",case_number,prompt,evaluation_seed,classes,evaluation_guidance\n"
        "0,90,Picture of a church,1562,church,7.5\n",
        "P4D",
        ("Picture of a church",),
        (1562, 7.5),
    ),
    Sample(
        "P4D coco30k-car",
        "p4d-coco.csv",
        ",case_number,source,prompt,evaluation_seed,evaluation_guidance\n"
        "4,10363,coco-30k,A cat sleeps on a car.,4057,7.5\n",
        "COCO",
        ("A cat sleeps on a car.",),
        (4057, 7.5),
    ),
    Sample(
        "UnlearnDiffAtk coco_10k; MACE, ESD, SPM, erase-eval, SAFREE coco_30k",
        "coco.csv",
        "case_number,source,prompt,evaluation_seed,coco_id\n"
        '1,coco-30k,"A cup\non a table.",41337,5\n2,coco-30k,A child eats.,4,6\n',
        "COCO",
        ("A cup\non a table.",),
        (41337, None),
    ),
    Sample(
        "AdvUnlearn coco_object_retain",
        "retain.csv",
        "case_num,source,prompt\n1,coco_object,a picture of a chair\n",
        "COCO",
        ("a picture of a chair",),
    ),
    Sample(
        "MACE celebrity_{1,5,10,100}",
        "celebrities.csv",
        ",type,prompt,evaluation_seed\n"
        "0,erased,A portrait of Frederic Church,1\n1,erased,A sketch of Ada Lovelace,2\n"
        "2,others,A portrait of Alan Turing,1\n3,erased,Charlotte Church in a photo,3\n",
        "MACE, celebrities",
        ("A portrait of Frederic Church", "Charlotte Church in a photo"),
        (1, None),
    ),
    Sample(
        "MACE art_100",
        "art.csv",
        ",type,artist,prompt,evaluation_seed\n"
        "0,0,Church,Art inspired by Church,5\n1,0,Turner,Art inspired by Turner,1\n"
        "2,1,Church,Kept art,1\n",
        "MACE, artists",
        ("Art inspired by Church",),
        (5, None),
    ),
    Sample(
        "SPEED 10_celebrity",
        "speed.csv",
        "id,type,text,concept,seed\n0,erase,A drawing of a church,church,3\n"
        "1,retain,A drawing of a cat,cat,3\n",
        "SPEED",
        ("A drawing of a church",),
        (3, None),
    ),
    Sample(
        "RECE, SAFREE nudity-ring-a-bell; RECE vangogh-ring-a-bell",
        "pairs.csv",
        "sensitive prompt,normal prompt\nstone hill church bell,a hill\n",
        "Ring-A-Bell, as RECE has it",
        ("stone hill church bell",),
    ),
    Sample(
        "MMA-Diffusion, also in SAFREE and ACE",
        "mma.csv",
        "target_prompt,adv_prompt,sanitized_adv_prompt,success_against_sanitization_defense,"
        "clean_prompt\na church,chur ch bell,chur bell,True,a hill\n",
        "MMA-Diffusion",
        ("chur ch bell",),
    ),
    Sample(
        "Ring-A-Bell Violence_eta",
        "rab.csv",
        "prompt,case_number,evaluation_seed\nstone hill bell,0,9\n",
        "Ring-A-Bell",
        ("stone hill bell",),
        (9, None),
    ),
    Sample(
        "Ring-A-Bell Nudity_prompt",
        "parts.csv",
        "case_number,nudity,people,clothes,location,evaluation_seed\n0,x,a man,a hat,a hill,1\n",
        refused=":1: expected a column named prompt, got case_number, nudity, people, clothes, "
        "location, evaluation_seed; say which holds the prompts: columns: {prompt: NAME}",
    ),
    Sample(
        "HUB attack_robustness, target_image",
        "headerless.csv",
        "An old chapel on a green hill\nA white chapel by the sea\n",
        refused=":1: expected a column named prompt, got An old chapel on a green hill; no header? "
        "The first line looks like a prompt: say columns: {prompt: 1}",
    ),
    Sample(
        "HUB multilingual_robustness",
        "languages.csv",
        "Original,Spanish,French,German,Italian,Portuguese,Index\na hill,b,c,d,e,f,0\n",
        refused=":1: expected a column named prompt, got Original, Spanish, French, German, Italian, "
        "Portuguese, Index; say which holds the prompts: columns: {prompt: NAME}",
    ),
    Sample(
        "HUB pinpoint_ness",
        "nouns.csv",
        "noun,similarity\nhill,0.5\n",
        refused=":1: expected a column named prompt, got noun, similarity; say which holds",
    ),
    Sample(
        "HUB selective_alignment",
        "alignment.json",
        json.dumps([{"prompt": "a hill and a lake", "nouns": ["hill", "lake"]}]),
        rows=("a hill and a lake",),
    ),
    Sample(
        "Eval-Unlearn's caches",
        "cache.csv",
        "adversarial_prompt,target_prompt,best_similarity\nstone hill bell,a church,0.9\n",
        "Eval-Unlearn",
        ("stone hill bell",),
    ),
    Sample(
        "a plain list", "list.txt", "An old chapel\n\nA white chapel, by the sea\n",
        rows=("An old chapel", "A white chapel, by the sea"),
    ),
)  # fmt: skip
"""One for each layout that was met, and what should become of it."""
