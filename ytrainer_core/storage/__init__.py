"""The only door to boto3: objects and folders in and out, checked, and whole or not at all.

Any S3-compatible endpoint serves (AWS_ENDPOINT_URL); credentials come from where boto3 finds them.
botocore repeats a request that got no answer or a busy one (AWS_RETRY_MODE, AWS_MAX_ATTEMPTS).
Repeated here is what it gives up or takes as it comes: a body that ends early while it is read, a
listing cut short. boto3's transfer manager is not used: it reads anew what a killed process had
half read, leaves that process's uploaded parts in the bucket, and keeps no sha256.
"""

from ytrainer_core.storage.addresses import is_remote
from ytrainer_core.storage.client import SECONDS_VARIABLE
from ytrainer_core.storage.download import download_folder, fetch
from ytrainer_core.storage.store import StoredObject, list_objects
from ytrainer_core.storage.upload import put, upload_folder

__all__ = [
    "SECONDS_VARIABLE",
    "StoredObject",
    "download_folder",
    "fetch",
    "is_remote",
    "list_objects",
    "put",
    "upload_folder",
]
