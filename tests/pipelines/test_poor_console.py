"""Commands end well on a console that knows hardly any letters."""

import io
import sys

from simvtp.data import load_manifest
from simvtp.pipelines import visualize
from simvtp.pipelines.embed import command as embed
from simvtp.pipelines.evaluate import command as evaluate
from simvtp.pipelines.prepare import command as prepare
from simvtp.pipelines.pretrain import command as pretrain


def test_emoji_in_names_and_captions_end_nothing(settings_for, corpus, tmp_path, monkeypatch):
    folder = tmp_path / "a 🐕 ệ"
    folder.mkdir()
    rows = ["videoid,path,caption"]
    for number, record in enumerate(load_manifest(corpus.validation)):
        (folder / f"{number}狗.mp4").write_bytes(record.path.read_bytes())
        rows.append(f'{number}🐕,{number}狗.mp4,"a 👩‍👩‍👧‍👦 {record.captions[0]}"')
    (folder / "bad🐕.mp4").write_bytes(b"none")
    rows.append("bad,bad🐕.mp4,nothing")
    source = folder / "clips.csv"
    source.write_text("\n".join(rows) + "\n", "utf-8")
    printed = io.BytesIO()
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(printed, encoding="ascii", write_through=True)
        monkeypatch.setattr(sys, name, stream)
    run = folder / "run"
    sources = {"data__train": source, "data__validation": source, "run__epochs": 1}
    assert pretrain.main(settings_for(run, data__max_bad_share=0.9, **sources)) == 0
    data = [f"--data={source}", "--max-bad-share=0.9"]
    model = f"--model={run / 'model'}"
    assert evaluate.main([model, *data, "--workers=0"]) == 0
    assert embed.main([model, *data, f"--out={folder}/f🐕.parquet", "--workers=0"]) == 0
    assert prepare.main([*data, f"--out={folder}/shards🐕", "--workers=1"]) == 0
    assert visualize.main([model, f"--data={source}", f"--out={folder}/p🐕.png"]) == 0
    said = printed.getvalue().decode("ascii")
    assert "bad\\U0001f415.mp4" in said
