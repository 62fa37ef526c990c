import sys

from saeflow.config import Config
from saeflow.targets import describe

print(describe(Config.model_validate_json(sys.argv[1])))
