"""One `Encode` stream: what the router says and hears about one media item. The order is drawn in proto/encode.proto."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet

from common.errors import DeadlineError, EPDError, InternalError, InvalidRequestError, ModelMismatchError
from common.pb import common_pb2, encode_pb2
from common.pb import embedding_pb2
from encode_server.engine import EncodeEngine
from encode_server.items import Claim, Opening
from encode_server.preprocessor import Media, Preprocessor
from encode_server.shipper import Shipper
from encode_server.uploads import Upload

Context = grpc.aio.ServicerContext[encode_pb2.EncodeCommand, encode_pb2.EncodeEvent]
