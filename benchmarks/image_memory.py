"""Peak memory (beside what is there before) and CPU time of one very large image, for each format.

    python benchmarks/image_memory.py [MEGAPIXELS]       (Linux)

Uniform images, whose files are small: what a stranger would hand in. Each is read in a process of its own.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

READ = """
import sys
from pathlib import Path
from time import process_time
from t2t_vit.data.budget import PixelBudget
from t2t_vit.data.preprocessing import Preprocessing
from t2t_vit.data.samples import Decoded
def peak():  # getrusage gives the parent's, where that was larger
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
decoded = Decoded(Preprocessing((224, 224)), PixelBudget())
decoded(sys.argv[2])
before, begun = peak(), process_time()
answer = decoded(sys.argv[1])
print(peak() - before, process_time() - begun, answer if isinstance(answer, str) else "")
"""
KINDS = {
    "JPEG": ("jpg", "RGB", {}),
    "JPEG, progressive": ("jpg", "RGB", {"progressive": True}),
    "PNG, RGB": ("png", "RGB", {}),
    "PNG, RGBA": ("png", "RGBA", {}),
    "PNG, palette": ("png", "P", {}),
    "PNG, 16-bit grey": ("png", "I;16", {}),
    "PNG, grey, turned": ("png", "L", {"exif": {274: 6}}),
    "TIFF, RGB": ("tif", "RGB", {"compression": "tiff_deflate"}),
    "GIF": ("gif", "P", {}),
    "QOI": ("qoi", "RGB", {}),
    "JPEG 2000": ("jp2", "RGB", {}),
    "WebP": ("webp", "RGB", {"lossless": True, "method": 0, "quality": 0}),
}


def main() -> None:
    pixels = float(sys.argv[1]) * 1e6 if len(sys.argv) > 1 else 178_956_970
    side = int(pixels**0.5)
    with TemporaryDirectory() as folder:
        small = Path(folder) / "small.png"
        Image.new("RGB", (300, 300)).save(small)
        for name, (ending, mode, options) in KINDS.items():
            path = Path(folder) / f"image.{ending}"
            given = dict(options)
            if "exif" in given:
                exif = Image.Exif()
                exif.update(given["exif"])
                given["exif"] = exif
            Image.new(mode, (side, side)).save(path, **given)
            words = [sys.executable, "-c", READ, str(path), str(small)]
            answer = subprocess.run(words, capture_output=True, check=True, text=True).stdout
            taken, seconds, reason = answer.split(" ", 2)
            size = f"{path.stat().st_size / 1e6:8.2f} MB"
            measured = f"{int(taken) / 1e6:8.0f} MB {float(seconds):6.1f} s"
            sys.stdout.write(f"{name:20} {size} {measured}  {reason.strip()}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
