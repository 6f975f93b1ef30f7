import sys
from pathlib import Path

# Shared test material (golden cases) lies beside the tests, not in the package.
sys.path.insert(0, str(Path(__file__).parent))
